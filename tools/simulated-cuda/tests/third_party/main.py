"""`main.py fixtures`: compiles every kernel and writes tests/third_party/fixtures. `main.py live`: compiles every kernel and
runs it on the driver that LD_LIBRARY_PATH gives, by NVIDIA's cuda-bindings, against NumPy. `run` sets up what both need."""

import os
import sys
from pathlib import Path

import nvcc_cases
import triton_cases


def cases():
    yield from triton_cases.all_cases()
    yield from nvcc_cases.all_cases()


def fixtures():
    folder = Path(__file__).parent / "fixtures"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for case in cases():
        case.save(folder)
        print(case.name)


def live():
    import client

    sanitizer = os.environ.get("SIMULATED_CUDA_SANITIZER") != "off"
    everything = [case for case in cases() if case.sanitizer or not sanitizer]
    client.use(everything[0])
    print(f"cuda-bindings as a plain client: ok; kernels with{'' if sanitizer else 'out'} the sanitizer:")
    failed = 0
    for case in everything:
        device = client.Device()
        try:
            worst = case.compare(device.run(case))
            verdict = "ok" if worst <= 1 else "WRONG"
            print(f"{case.name:28} {verdict}: at most {worst:.3g} of the bound; {case.about}")
        except client.Error as error:
            verdict = "FAILED"
            print(f"{case.name:28} {verdict}: {error}")
        failed += verdict != "ok"
    print(f"{len(everything) - failed} of {len(everything)} right")
    return failed


if __name__ == "__main__":
    commands = {"fixtures": fixtures, "live": live}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    sys.exit(commands[sys.argv[1]]() and 1)
