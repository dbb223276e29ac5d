//! What is allocated: nothing once a shape has been seen, and never an intermediate that grows with the batch.
//! One test only: the counters are the process's.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use common::case::{Case, Destinations, Form, Operation, Options, Part, Set};
use common::{Cp, Dense, levels};
use trilinear::{Algorithm, Context, Device, Element, Gradient, Interaction, Saved, Tangents, Tensor, View, bf16};

/// The system's allocator, counted.
struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn count(bytes: usize) {
    CALLS.fetch_add(1, Relaxed);
    PEAK.fetch_max(BYTES.fetch_add(bytes, Relaxed) + bytes, Relaxed);
}

// SAFETY: all calls go to the system's allocator; counting touches no memory of theirs.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's contract, here and below.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        BYTES.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, size) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Scratch of a thread may take this much, and no more.
const MOST: usize = 8 << 20;

/// Allocations of `work` when it is repeated: those of every repetition, for the test harness's own thread may allocate
/// during one.
fn repeated(mut work: impl FnMut()) -> usize {
    work();
    let once = |_| {
        let before = CALLS.load(Relaxed);
        work();
        CALLS.load(Relaxed) - before
    };
    (0..3).map(once).min().unwrap_or(0)
}

/// Calls of every kind with one layer, into buffers that exist.
fn check_repeated<T: Element>(layer: Interaction<'_, T>, data: &Dense<T>, what: &str) {
    let [n, _, j, k] = data.sizes;
    let mut y = Tensor::zeros([n, k]).unwrap();
    let calls = repeated(|| layer.forward_into(data.z(), data.x(), y.view_mut()).unwrap());
    assert_eq!(calls, 0, "forward_into allocated: {what}");
    let groups = n.div_ceil(4);
    let z = data.z().slice(0, 0..groups).unwrap();
    let x = View::new(&data.x, [1, n, j]).unwrap();
    let mut shared = Tensor::zeros([1, n, k]).unwrap();
    let z_one = data.z().slice(0, 0..1).unwrap();
    let calls = repeated(|| layer.forward_shared_into(z_one, x, shared.view_mut()).unwrap());
    assert_eq!(calls, 0, "forward_shared_into allocated: {what}");
    let (mut weights, mut bias) = (Tensor::zeros([groups, k, j]).unwrap(), Tensor::zeros([groups, k]).unwrap());
    let calls = repeated(|| layer.generate_into(z, weights.view_mut(), bias.view_mut()).unwrap());
    assert_eq!(calls, 0, "generate_into allocated: {what}");
    // Making a layer, planning and preparing's `layer()` are free as well.
    let prepared = layer.prepare().unwrap();
    let calls = repeated(|| {
        let layer = prepared.layer().with_b(data.b()).unwrap();
        layer.forward_into(data.z(), data.x(), y.view_mut()).unwrap();
        let _ = layer.plan(n);
    });
    assert_eq!(calls, 0, "a prepared layer allocated: {what}");
}

fn all_repeated<T: Element>(threads: usize) {
    let base = Context::new(Device::Cpu).unwrap().with_threads(threads).unwrap();
    for &level in levels() {
        for sizes in
            [[1, 16, 16, 16], [3, 80, 90, 100], [4, 300, 200, 2], [7, 20, 30, 40], [100, 40, 41, 42], [600, 9, 31, 16]]
        {
            let data = Dense::<T>::uniform(sizes, 1);
            for algorithm in [None, Some(Algorithm::Stream), Some(Algorithm::FusedDot), Some(Algorithm::KhatriRao)] {
                if algorithm == Some(Algorithm::Stream) && sizes[0] > 4 {
                    continue;
                }
                let context = base.with_simd(level).unwrap();
                let context = algorithm.map_or(context, |algorithm| context.with_algorithm(algorithm));
                let what = format!("{} {sizes:?} {level} {algorithm:?}, {threads} threads", T::DTYPE);
                warm_up(|| {
                    let _ = data.layer().with_context(context).forward(data.z(), data.x());
                    let _ = data.layer().with_context(context).generate(data.z());
                });
                check_repeated(data.layer().with_context(context), &data, &what);
                let w = View::new(&data.w, [sizes[3], sizes[2], sizes[1]]).unwrap().permute([0, 2, 1]).unwrap();
                let transposed = Interaction::dense(w).unwrap().with_context(context);
                warm_up(|| drop(transposed.forward(data.z(), data.x())));
                check_repeated(transposed, &data, &format!("{what} transposed"));
            }
        }
        for sizes in [[1, 16, 16, 16, 8], [4, 300, 400, 500, 600], [70, 90, 80, 70, 60]] {
            let data = Cp::<T>::uniform(sizes, 1);
            let layer = data.layer().with_context(base.with_simd(level).unwrap());
            warm_up(|| {
                let _ = layer.forward(data.rest.z(), data.rest.x());
                let _ = layer.generate(data.rest.z());
            });
            let what = format!("{} {sizes:?} {level} CP, {threads} threads", T::DTYPE);
            check_repeated(layer, &data.rest, &what);
        }
    }
}

/// Lets every thread of the pool meet the shape; which of them takes a task of a call is left to chance.
fn warm_up(work: impl Fn() + Sync) {
    for _ in 0..3 {
        if rayon::current_thread_index().is_some() {
            rayon::broadcast(|_| work());
        } else {
            work();
        }
    }
}

/// Bytes in use at the highest point of `work`, beyond those before it.
fn peak(work: impl FnOnce()) -> usize {
    let before = BYTES.load(Relaxed);
    PEAK.store(before, Relaxed);
    work();
    PEAK.load(Relaxed) - before
}

/// First calls of a fresh thread, whose scratch is yet to be allocated.
fn large_batches() {
    let serial = Context::new(Device::Cpu).unwrap().with_threads(1).unwrap();
    let [n, i, j, k] = [20_000, 64, 64, 16];
    let data = Dense::<f32>::uniform([n, i, j, k], 1);
    let w = View::new(&data.w, [i, j, k]).unwrap().permute([2, 0, 1]).unwrap();
    let transposed = Interaction::dense(w).unwrap();
    let cp = Cp::<f32>::uniform([n, i, j, k, 64], 1);
    let mut y = Tensor::zeros([n, k]).unwrap();
    let algorithms = [None, Some(Algorithm::FusedDot), Some(Algorithm::KhatriRao)];
    for (name, layer) in [("dense", data.layer()), ("transposed", transposed), ("CP", cp.layer())] {
        for algorithm in if name == "CP" { &algorithms[..1] } else { &algorithms } {
            let context = algorithm.map_or(serial, |algorithm| serial.with_algorithm(algorithm));
            let layer = layer.with_context(context);
            let plan = layer.plan(n).unwrap();
            let bytes = on_a_fresh_thread(|| peak(|| layer.forward_into(data.z(), data.x(), y.view_mut()).unwrap()));
            assert!(bytes <= MOST, "{name} {algorithm:?}: {bytes} bytes");
            assert!(bytes <= plan.scratch && plan.scratch <= MOST, "{name} {algorithm:?}: {bytes} bytes, {plan}");
        }
    }
    // Shared context: neither W′ of all groups, nor z for all rows.
    let [groups, rows] = [400, 50];
    let z = data.z().slice(0, 0..groups).unwrap();
    let x = View::new(&data.x, [groups, rows, j]).unwrap();
    let mut y = Tensor::zeros([groups, rows, k]).unwrap();
    for (name, layer) in [("dense", data.layer()), ("CP", cp.layer())] {
        let layer = layer.with_context(serial);
        let bytes = on_a_fresh_thread(|| peak(|| layer.forward_shared_into(z, x, y.view_mut()).unwrap()));
        assert!(bytes <= MOST, "{name}, shared: {bytes} bytes");
    }
    // Two threads: twice that.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let mut y = Tensor::zeros([n, k]).unwrap();
    let parallel = data.layer().with_context(Context::new(Device::Cpu).unwrap());
    let bytes = pool.install(|| {
        assert_eq!(parallel.plan(n).unwrap().threads, 2);
        peak(|| parallel.forward_into(data.z(), data.x(), y.view_mut()).unwrap())
    });
    assert!(bytes <= 2 * MOST, "two threads: {bytes} bytes");
}

/// Gradients and tangents into memory that exists, of layers of every form.
fn gradients_repeated<T: Element>(threads: usize) {
    let base = Context::new(Device::Cpu).unwrap().with_threads(threads).unwrap();
    let sizes = [[1, 1, 16, 16, 16, 8], [70, 1, 40, 40, 12, 30], [7, 90, 20, 30, 40, 9], [600, 1, 9, 31, 16, 70]];
    for &level in levels() {
        let context = base.with_simd(level).unwrap();
        for (sizes, form) in sizes.into_iter().flat_map(|sizes| Form::ALL.map(|form| (sizes, form))) {
            let case = Case::<T>::uniform(form, sizes, 1);
            let what = format!("{form:?} {sizes:?} {} {level}, {threads} threads", T::DTYPE);
            let plain = sizes[1] == 1;
            let case = if plain && sizes[2] == sizes[3] { case.tied() } else { case };
            let laid = case.laid(0);
            let mut operations = vec![Operation::Shared, Operation::Generate];
            operations.extend(plain.then_some(Operation::Plain));
            for operation in operations {
                // All of them; the inputs' and the weights' alone, which may take other ways.
                let inputs = Set::of(&[Part::Z, Part::X]);
                for wanted in [Set::ALL, inputs, Set(!inputs.0), Set::of(&[Part::Tied])] {
                    let options = Options { wanted, add: Set::of(&[Part::W]), ..Options::new(context) };
                    warm_up(|| {
                        laid.run(operation, context, &mut Destinations::new(&case, operation, &options), None).unwrap();
                    });
                    let mut to = Destinations::new(&case, operation, &options);
                    let calls = repeated(|| laid.run(operation, context, &mut to, None).unwrap());
                    assert_eq!(calls, 0, "gradients allocated: {operation:?} {wanted:?} {what}");
                }
            }
            if plain {
                saved_and_tangents_repeated(&case, context, &what);
            }
        }
    }
}

fn saved_and_tangents_repeated<T: Element>(case: &Case<T>, context: Context, what: &str) {
    let laid = case.laid(0);
    let layer = laid.layer().with_context(context);
    let (z, x) = (laid.z.view(), laid.plain_x());
    let (n, k) = (case.sizes[0], case.sizes[4]);
    let options = Options::new(context);
    warm_up(|| {
        let mut saved = Saved::default();
        layer.forward_saving(z, x, &mut saved).unwrap();
        let mut to = Destinations::new(case, Operation::Plain, &options);
        laid.run(Operation::Plain, context, &mut to, Some(&saved)).unwrap();
    });
    let (mut saved, mut y) = (Saved::default(), Tensor::zeros([n, k]).unwrap());
    let mut to = Destinations::new(case, Operation::Plain, &options);
    let calls = repeated(|| {
        layer.forward_saving_into(z, x, y.view_mut(), &mut saved).unwrap();
        laid.run(Operation::Plain, context, &mut to, Some(&saved)).unwrap();
    });
    assert_eq!(calls, 0, "saved activations allocated: {what}");
    let moved = tangents(&laid);
    warm_up(|| drop(layer.tangent(z, x, &moved).unwrap()));
    let mut to = Tensor::zeros([n, k]).unwrap();
    let calls = repeated(|| layer.tangent_into(z, x, &moved, Gradient::write(to.view_mut())).unwrap());
    assert_eq!(calls, 0, "tangent_into allocated: {what}");
}

/// Every operand moves, along itself.
fn tangents<'a, T: Element>(laid: &'a common::case::Laid<'_, T>) -> Tangents<'a, T> {
    let cp = laid.case.form.is_cp();
    let [a, b, c] = laid.factors.each_ref().map(|factor| cp.then(|| factor.view()));
    Tangents {
        z: Some(laid.z.view()),
        x: Some(laid.plain_x()),
        w: (laid.case.form == Form::Dense).then(|| laid.w.view()),
        u: Some(laid.u.view()),
        v: Some(laid.v.view()),
        b: Some(laid.b.view()),
        cp_a: a,
        cp_b: b,
        cp_c: c,
        lambda: (laid.case.form == Form::CpLambda).then(|| laid.lambda.view()),
    }
}

/// Scratch of gradients and tangents on a fresh thread: a few MiB, and no more for four times the batch. (Blocks are cut
/// evenly, so that it varies a little.)
fn gradients_of_large_batches() {
    let serial = Context::new(Device::Cpu).unwrap().with_threads(1).unwrap();
    let [i, j, k, r] = [64, 48, 16, 64];
    let growths = [
        (Operation::Plain, [[2000, 1], [8000, 1]]),
        (Operation::Shared, [[500, 4], [2000, 4]]),
        (Operation::Shared, [[4, 500], [4, 2000]]),
        (Operation::Generate, [[500, 1], [2000, 1]]),
    ];
    for (operation, batches) in growths {
        for form in Form::ALL {
            let inputs = Set::of(&[Part::Z, Part::X]);
            for wanted in [Set::ALL, inputs, Set(!inputs.0)] {
                let options = Options { wanted, ..Options::new(serial) };
                let bytes = batches.map(|[groups, rows]| {
                    let case = Case::<f32>::uniform(form, [groups, rows, i, j, k, r], 1);
                    let laid = case.laid(0);
                    let mut to = Destinations::new(&case, operation, &options);
                    on_a_fresh_thread(|| peak(|| laid.run(operation, serial, &mut to, None).unwrap()))
                });
                assert_bytes(bytes, &format!("{operation:?} {batches:?} {form:?} {wanted:?}"));
            }
        }
    }
    for form in Form::ALL {
        let bytes = [2000, 8000].map(|n| {
            let case = Case::<f32>::uniform(form, [n, 1, i, j, k, r], 1);
            let laid = case.laid(0);
            let (z, x, moved) = (laid.z.view(), laid.x.view(), tangents(&laid));
            let mut to = Tensor::zeros([n, k]).unwrap();
            let layer = laid.layer().with_context(serial);
            let mut call = || layer.tangent_into(z, x, &moved, Gradient::write(to.view_mut())).unwrap();
            on_a_fresh_thread(|| peak(&mut call))
        });
        assert_bytes(bytes, &format!("tangent, {form:?}"));
    }
}

fn assert_bytes([few, many]: [usize; 2], what: &str) {
    assert!(few.max(many) <= MOST, "{what}: {few} and {many} bytes");
    assert!(many <= few + few / 4, "{what}: {few} bytes for a batch, {many} for four times that");
}

fn on_a_fresh_thread(work: impl FnOnce() -> usize + Send) -> usize {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

#[test]
fn allocations() {
    large_batches();
    gradients_of_large_batches();
    all_repeated::<f32>(1);
    all_repeated::<bf16>(1);
    all_repeated::<f64>(1);
    gradients_repeated::<f32>(1);
    gradients_repeated::<bf16>(1);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    pool.install(|| {
        all_repeated::<f32>(2);
        all_repeated::<bf16>(2);
        gradients_repeated::<f32>(2);
    });
}
