//! Modules: what is read, what is refused, and what they say of their functions.

use simulated_cuda::{Memory, Module, ParseError, ptx::NEWEST_VERSION};

fn parse(version: &str, target: &str, rest: &str) -> Result<Module, ParseError> {
    Module::parse(&format!(".version {version}\n.target {target}\n.address_size 64\n{rest}"), (8, 6))
}

#[track_caller]
fn refused(result: Result<Module, ParseError>) -> ParseError {
    result.err().expect("refused")
}

#[test]
fn versions_and_targets() {
    let kernel = ".entry k() { ret; }";
    assert!(parse("7.0", "sm_80", kernel).is_ok());
    assert!(parse("9.5", "sm_75", kernel).is_ok());
    let found = refused(parse("9.6", "sm_80", kernel));
    assert_eq!(found, ParseError::Version { found: (9, 6), newest: NEWEST_VERSION });
    assert_eq!(
        Module::parse_for(".version 8.1\n.target sm_80\n.address_size 64\n", (8, 0), (8, 0)).err(),
        Some(ParseError::Version { found: (8, 1), newest: (8, 0) })
    );
    // A newer version is told before a syntax that only it has.
    assert!(matches!(parse("10.0", "sm_80", "§"), Err(ParseError::Version { .. })));
    for target in ["sm_89", "sm_90", "sm_80a", "sm_90a", "compute_80", "sm_"] {
        assert!(matches!(parse("8.0", target, kernel), Err(ParseError::Target { .. })), "{target}");
    }
    assert!(parse("8.8", "sm_86a", kernel).is_ok());
}

#[test]
fn errors_name_their_line() {
    let line = |rest: &str| match refused(parse("8.0", "sm_80", rest)) {
        ParseError::Syntax { line, message } | ParseError::Unsupported { line, what: message } => (line, message),
        other => panic!("{other}"),
    };
    let kernel =
        |body: &str| format!(".entry k(.param .u64 p)\n{{\n.reg .b32 %r<3>;\n.reg .pred %q;\n{body}\nret;\n}}\n");
    // The body begins on line 8.
    assert_eq!(line(&kernel("add.u32 %r0, %r1, %r3;")).0, 8);
    assert_eq!(line(&kernel("add.u32 %r0, %r1\nret;")).0, 9);
    assert_eq!(line(&kernel("\nadd.u32 %r0, %r1;")).0, 9);
    assert_eq!(line(&kernel("bra NOWHERE;")).0, 8);
    assert_eq!(line(&kernel("frobnicate.u32 %r0, %r1;")), (8, "frobnicate.u32".into()));
    assert_eq!(line(&kernel("add.u64 %r0, %r1, %r2;")).0, 8);
    assert_eq!(line(&kernel("@%r0 add.u32 %r0, %r1, %r2;")).0, 8);
    assert_eq!(line(&kernel("ld.global.u32 %r0, %r1;")).0, 8);
    assert_eq!(line(&kernel("mov.u32 %r0, unknown;")).0, 8);
    assert_eq!(line(".entry k(\n").0, 4);
    // Junk of any kind is an error, never a panic.
    let whole = kernel("add.u32 %r0, %r1, %r2;\n@%q bra L;\nL:\nld.param.u64 %r0, [p];");
    for cut in 0..whole.len() {
        let _ = parse("8.0", "sm_80", &whole[..cut]);
        let _ = parse("8.0", "sm_80", &format!("{}{{;(", &whole[..cut]));
    }
}

#[test]
fn functions_tell_of_themselves() {
    let module = parse(
        "8.0",
        "sm_80",
        ".const .align 4 .b8 c[12];\n.extern .shared .align 16 .b8 dynamic[];\n\
         .visible .entry k(.param .u32 a, .param .u64 b, .param .align 16 .b8 s[20], .param .u8 t)\n.maxntid 64, 2, 1\n.minnctapersm 2\n{\n\
         .shared .align 8 .b8 x[10];\n.shared .align 16 .b8 y[8];\n.local .align 8 .b8 own[24];\n.reg .f64 %d<4>;\n\
         mov.f64 %d0, 0d0000000000000000;\nmov.f64 %d1, %d0;\nadd.f64 %d2, %d0, %d1;\nret;\n}\n.entry other() { ret; }",
    )
    .unwrap();
    let function = module.function("k").unwrap();
    let offsets: Vec<(u32, u32)> = function.params.iter().map(|param| (param.offset, param.size)).collect();
    assert_eq!(offsets, [(0, 4), (8, 8), (16, 20), (36, 1)]);
    assert_eq!((function.param_bytes, function.static_shared, function.max_threads), (37, 24, 128));
    assert_eq!((function.const_bytes, function.ptx_version, function.target), (12, 80, 80));
    assert!(function.local_bytes >= 24 && function.registers >= 4);
    assert_eq!(module.function("other").unwrap().max_threads, 1024);
    assert!(module.function("nothing").is_none());
    assert_eq!(module.functions().collect::<Vec<_>>(), ["k", "other"]);
}

#[test]
fn variables_are_placed() {
    let module = parse(
        "8.0",
        "sm_80",
        ".visible .global .align 4 .u32 x = 7;\n.global .align 8 .b8 y[16];\n.const .f32 z = 0f40490FDB;",
    )
    .unwrap();
    let memory = Memory::new(1 << 20);
    let base = module.place(&memory).unwrap();
    let mut bytes = [0; 4];
    let (offset, size) = module.global("x").unwrap();
    memory.read(base + offset, &mut bytes).unwrap();
    assert_eq!((u32::from_le_bytes(bytes), size), (7, 4));
    memory.read(base + module.global("z").unwrap().0, &mut bytes).unwrap();
    assert_eq!(u32::from_le_bytes(bytes), 0x4049_0fdb);
    assert!(memory.is_initialised(base + module.global("y").unwrap().0, 16).unwrap());
    assert!(module.global("nothing").is_none());
    memory.free(base).unwrap();
    assert!(memory.allocations().is_empty());
}
