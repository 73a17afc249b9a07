//! Faults of the kernel, injected by strace, and of whoever else has the files.

use std::env;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use airllm_rs::error::Error;
use airllm_rs::io::{EngineChoice, IoOptions, open};

use crate::io::place::{Read, arguments, content, directory, engines, is_alone, run, text, write};

const FILE: &str = "AIRLLM_TEST_FILE";
const ENGINE: &str = "AIRLLM_TEST_ENGINE";
const FAULT: &str = "AIRLLM_TEST_FAULT";
const NAME: &str = "io::faults::reads_survive_or_report_what_strace_does_to_them";
const BLOCK: usize = 64 << 10;

// What strace does to the second read of a thread, and to others after it.
const FAULTS: [(&str, &str); 9] = [
    ("none", "error=EINTR:when=2+2"),
    ("none", "error=EAGAIN:when=2+2"),
    ("errno 5", "error=EIO:when=2"),
    ("errno 2", "error=ENOENT:when=2"),
    ("short 1", "retval=1:when=2"),
    ("short 511", "retval=511:when=2"),
    ("short 512", "retval=512:when=2"),
    ("short 4095", "retval=4095:when=2"),
    ("short 4096", "retval=4096:when=2"),
];

fn block(number: usize) -> Read {
    Read {
        file: 0,
        offset: (number * BLOCK) as u64,
        nbytes: BLOCK,
        needed: BLOCK,
    }
}

// Read four blocks with one thread, under strace.
fn suffer(path: &Path) {
    let content = content(7, 4 * BLOCK);
    let choice = env::var(ENGINE).unwrap().parse().unwrap();
    let fault = env::var(FAULT).unwrap();
    let options = IoOptions {
        queue_depth: 1,
        ..IoOptions::default()
    };
    let mut engine = open(&[path.to_owned()], choice, options).unwrap();
    let plan: Vec<_> = (0..4).map(block).collect();
    let mut results = run(engine.as_mut(), &plan);
    let (result, bytes) = results.remove(1);
    let expected = &content[BLOCK..2 * BLOCK];
    match fault.split_once(' ') {
        Some(("errno", errno)) => match result {
            Err(Error::Io { source, offset, .. }) => {
                assert_eq!(source.raw_os_error(), errno.parse().ok());
                assert_eq!(offset, BLOCK as u64);
            }
            other => panic!("{other:?}"),
        },
        Some((_, short)) => {
            // Strace claims bytes that nobody has read: those, in whole blocks, stay what they were.
            let short: usize = short.parse().unwrap();
            let skipped = short / engine.alignment() * engine.alignment();
            assert_eq!(result.unwrap(), BLOCK);
            assert!(bytes[..skipped].iter().all(|&byte| byte == 0));
            assert!(bytes[skipped..] == expected[skipped..]);
        }
        None => {
            assert_eq!(result.unwrap(), BLOCK);
            assert!(bytes == expected);
        }
    }
    for (number, (result, bytes)) in [0, 2, 3].into_iter().zip(results) {
        assert_eq!(result.unwrap(), BLOCK);
        assert!(
            bytes == content[number * BLOCK..][..BLOCK],
            "block {number}"
        );
    }
}

fn strace(inject: &str, path: &Path) -> Command {
    let mut command = Command::new("strace");
    let inject = format!("inject=pread64:{inject}");
    let quiet = ["-f", "-qq", "-o", "/dev/null", "-e", "trace=pread64"];
    // Reads of the file only: the program itself is read too.
    command
        .args(quiet)
        .args(["-e", &inject])
        .arg("-P")
        .arg(path);
    command
}

#[test]
fn reads_survive_or_report_what_strace_does_to_them() {
    if is_alone() {
        return suffer(&PathBuf::from(env::var_os(FILE).unwrap()));
    }
    let directory = directory();
    let path = write(directory.path(), &[content(7, 4 * BLOCK)]).remove(0);
    // Not installed, or not allowed to trace.
    let works = strace("error=EIO:when=9999", &path).arg("true").output();
    if !works.is_ok_and(|output| output.status.success()) {
        return;
    }
    let has = engines(directory.path());
    for (name, choice) in [
        ("direct", EngineChoice::Direct),
        ("buffered", EngineChoice::Buffered),
    ] {
        if !has.contains(&choice) {
            continue;
        }
        for (fault, inject) in FAULTS {
            let output = strace(inject, &path)
                .arg(env::current_exe().unwrap())
                .args(arguments(NAME))
                .envs([(ENGINE, name), (FAULT, fault), ("AIRLLM_TEST_ALONE", "1")])
                .env(FILE, &path)
                .output()
                .unwrap();
            let said = text(&output);
            assert!(output.status.success(), "{name}, {inject}: {said}");
            assert!(said.contains("1 passed"), "{said}");
        }
    }
}

#[test]
fn a_file_cut_off_while_it_streams_gives_its_bytes_or_an_error() {
    const BLOCKS: usize = 64;
    let content = content(9, BLOCKS * BLOCK);
    let directory = directory();
    for choice in engines(directory.path()) {
        // A mapping is none of those that survive it.
        if choice == EngineChoice::Mmap {
            continue;
        }
        let path = write(directory.path(), std::slice::from_ref(&content)).remove(0);
        let options = IoOptions {
            queue_depth: 4,
            ..IoOptions::default()
        };
        let mut engine = open(std::slice::from_ref(&path), choice, options).unwrap();
        let plan: Vec<_> = (0..BLOCKS).map(block).collect();
        let results = thread::scope(|scope| {
            scope.spawn(|| {
                for left in (1..BLOCKS as u64).rev() {
                    let file = OpenOptions::new().write(true).open(&path).unwrap();
                    file.set_len(left * BLOCK as u64).unwrap();
                }
            });
            run(engine.as_mut(), &plan)
        });
        for (number, (result, bytes)) in results.into_iter().enumerate() {
            match result {
                Ok(_) => assert!(bytes == content[number * BLOCK..][..BLOCK], "{choice:?}"),
                Err(Error::UnexpectedEof { found, .. }) => assert!(found < BLOCK as u64),
                Err(other) => panic!("{choice:?}: {other}"),
            }
        }
    }
}
