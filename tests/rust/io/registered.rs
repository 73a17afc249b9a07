//! Memory registered with the kernel is read into as any other is.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use airllm_rs::arena::Arena;
use airllm_rs::io::{Buffer, EngineChoice, IoEngine, IoOptions, open};

use crate::io::place::{Read, arguments, content, directory, engines, is_alone, text, write};

const FILE: &str = "AIRLLM_TEST_FILE";
const BLOCK: usize = 256 << 10;

// Read blocks into the first half of an arena, which is registered, into the second, and across.
fn check(path: &Path, choice: EngineChoice, is_refused: bool) {
    let expected = content(5, 8 * BLOCK);
    let mut engine = open(&[path.to_owned()], choice, IoOptions::default()).unwrap();
    let arena = Arena::new(8 * BLOCK).unwrap();
    for nbytes in [arena.nbytes(), arena.nbytes() / 2] {
        engine.register(Buffer {
            ptr: arena.as_ptr(),
            nbytes,
        });
    }
    let is_registered = engine.features().contains(&"registered buffers");
    assert_eq!(is_registered, choice == EngineChoice::Uring && !is_refused);
    for shift in [0, BLOCK / 2] {
        let blocks = if shift == 0 { 8 } else { 7 };
        read(engine.as_mut(), &arena, blocks, shift, &expected);
    }
}

fn read(engine: &mut dyn IoEngine, arena: &Arena, blocks: usize, shift: usize, expected: &[u8]) {
    // SAFETY: the arena is the test's, and nothing is in flight.
    unsafe { arena.as_ptr().write_bytes(0, arena.nbytes()) };
    for number in 0..blocks {
        let read = Read {
            file: 0,
            offset: (number * BLOCK) as u64,
            nbytes: BLOCK,
            needed: BLOCK,
        };
        let place = number * BLOCK + shift;
        engine
            .submit(read.request(number as u64, arena, place))
            .unwrap();
    }
    let mut done = Vec::new();
    while done.len() < blocks {
        engine.wait(&mut done, None).unwrap();
    }
    for completion in done {
        assert_eq!(completion.result.unwrap(), BLOCK);
    }
    let start = arena.as_ptr().wrapping_add(shift);
    // SAFETY: within the arena, and nothing is in flight.
    let bytes = unsafe { std::slice::from_raw_parts(start, blocks * BLOCK) };
    assert!(bytes == &expected[..blocks * BLOCK]);
}

#[test]
fn memory_may_be_registered_with_every_engine() {
    let directory = directory();
    let path = write(directory.path(), &[content(5, 8 * BLOCK)]).remove(0);
    for choice in engines(directory.path()) {
        check(&path, choice, false);
    }
    // And is not, if nobody wants it.
    let options = IoOptions {
        registered_buffers: false,
        ..IoOptions::default()
    };
    let mut engine = open(&[path], EngineChoice::Auto, options).unwrap();
    let arena = Arena::new(BLOCK).unwrap();
    engine.register(Buffer {
        ptr: arena.as_ptr(),
        nbytes: arena.nbytes(),
    });
    assert!(!engine.features().contains(&"registered buffers"));
}

#[test]
fn a_kernel_that_locks_little_memory_reads_even_so() {
    if is_alone() {
        let path = PathBuf::from(std::env::var_os(FILE).unwrap());
        return check(&path, EngineChoice::Uring, true);
    }
    let directory = directory();
    if !engines(directory.path()).contains(&EngineChoice::Uring) {
        return;
    }
    let path = write(directory.path(), &[content(5, 8 * BLOCK)]).remove(0);
    let open_to_all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open_to_all).unwrap();
    // Root may lock whatever it likes; others may not become somebody else.
    let limited = |program: &Path| {
        let mut command = Command::new("prlimit");
        command.arg("--memlock=262144:262144").arg(program);
        command.uid(65_534).gid(65_534);
        command
    };
    let may = limited(Path::new("true")).output();
    let program = std::env::current_exe().unwrap();
    let is_reachable = limited(Path::new("test")).arg("-x").arg(&program).output();
    let succeeds = |output: std::io::Result<std::process::Output>| {
        output.is_ok_and(|output| output.status.success())
    };
    if !succeeds(may) || !succeeds(is_reachable) {
        return;
    }
    let output = limited(&program)
        .args(arguments(
            "io::registered::a_kernel_that_locks_little_memory_reads_even_so",
        ))
        .env("AIRLLM_TEST_ALONE", "1")
        .env(FILE, &path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("1 passed"));
}
