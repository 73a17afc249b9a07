//! A file that is in the page cache is read from there; the cache stays what it was.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

use airllm_rs::error::Error;
use airllm_rs::io::{EngineChoice, IoEngine, IoOptions, open, probe};

use crate::io::place::{
    Read, alone, cached_pages, content, directory, evict, in_one_of_five_tries, is_alone, run,
    text, write,
};

const PAGE: usize = 4096;
const NBYTES: usize = 300 * PAGE + 77;
const ANYBODY: &str = "AIRLLM_TEST_FILE";

// Those that read past the page cache, as far as this place has them.
fn for_each_direct_engine(test: impl Fn(EngineChoice)) {
    let directory = directory();
    let path = write(directory.path(), &[vec![0; PAGE]]).remove(0);
    for report in probe(&path) {
        let choice = match report.engine {
            "uring" => EngineChoice::Uring,
            "direct" => EngineChoice::Direct,
            _ => continue,
        };
        if report.ok {
            in_one_of_five_tries(|| test(choice));
        }
    }
}

fn open_one(path: &PathBuf, choice: EngineChoice) -> Box<dyn IoEngine> {
    open(std::slice::from_ref(path), choice, IoOptions::default()).unwrap()
}

fn is_hot(engine: &dyn IoEngine) -> bool {
    engine.features().contains(&"page cache")
}

fn read(first_page: usize, pages: usize) -> Read {
    let offset = first_page * PAGE;
    Read {
        file: 0,
        offset: offset as u64,
        nbytes: pages * PAGE,
        needed: (pages * PAGE).min(NBYTES - offset),
    }
}

fn assert_reads(engine: &mut dyn IoEngine, plan: &[Read], content: &[u8]) {
    for (read, (result, bytes)) in plan.iter().zip(run(engine, plan)) {
        assert!(result.unwrap() >= read.needed);
        let start = read.offset as usize;
        assert!(bytes[..read.needed] == content[start..start + read.needed]);
    }
}

#[test]
fn a_cached_file_is_read_from_the_cache_and_stays_in_it() {
    let content = content(3, NBYTES);
    for_each_direct_engine(|choice| {
        let directory = directory();
        let path = write(directory.path(), std::slice::from_ref(&content)).remove(0);
        fs::read(&path).unwrap();
        let pages = cached_pages(&path);
        assert_eq!(pages, 301);
        let mut engine = open_one(&path, choice);
        assert!(is_hot(engine.as_ref()), "{choice:?}");
        let plan = [read(0, 130), read(130, 100), read(230, 71), read(300, 1)];
        assert_reads(engine.as_mut(), &plan, &content);
        assert_eq!(engine.cached_bytes(), NBYTES as u64 + 77);
        assert_eq!(cached_pages(&path), pages);

        let options = IoOptions {
            page_cache: false,
            ..IoOptions::default()
        };
        let mut engine = open(std::slice::from_ref(&path), choice, options).unwrap();
        assert!(!is_hot(engine.as_ref()));
        assert_reads(engine.as_mut(), &plan, &content);
        assert_eq!(engine.cached_bytes(), 0);
    });
}

#[test]
fn a_file_that_is_not_cached_is_not_looked_for_there_and_does_not_come() {
    let content = content(3, NBYTES);
    for_each_direct_engine(|choice| {
        let directory = directory();
        let path = write(directory.path(), std::slice::from_ref(&content)).remove(0);
        let mut engine = open_one(&path, choice);
        assert!(!is_hot(engine.as_ref()), "{choice:?}");
        assert_reads(engine.as_mut(), &[read(0, 301)], &content);
        assert_eq!((engine.cached_bytes(), cached_pages(&path)), (0, 0));
    });
}

#[test]
fn a_hole_in_the_cache_is_read_from_the_disk_and_many_end_the_search() {
    let content = content(3, NBYTES);
    for_each_direct_engine(|choice| {
        let directory = directory();
        let path = write(directory.path(), std::slice::from_ref(&content)).remove(0);
        fs::read(&path).unwrap();
        let mut engine = open_one(&path, choice);
        let start = (40 * PAGE) as u64;
        let length = std::num::NonZeroU64::new(PAGE as u64);
        let file = fs::File::open(&path).unwrap();
        rustix::fs::fadvise(&file, start, length, rustix::fs::Advice::DontNeed).unwrap();
        let pages = cached_pages(&path);
        assert!(pages < 301);
        assert_reads(engine.as_mut(), &[read(0, 301), read(80, 3)], &content);
        assert_eq!(engine.cached_bytes(), 3 * PAGE as u64);
        assert_eq!(cached_pages(&path), pages, "{choice:?}");

        evict(&path);
        for first in 0..5 {
            assert_reads(engine.as_mut(), &[read(first * 50, 50)], &content);
        }
        assert!(!is_hot(engine.as_ref()));
        assert_eq!(cached_pages(&path), 0, "{choice:?}");
    });
}

#[test]
fn what_is_written_or_cut_off_meanwhile_is_seen() {
    let before = content(3, NBYTES);
    for_each_direct_engine(|choice| {
        let directory = directory();
        let path = write(directory.path(), std::slice::from_ref(&before)).remove(0);
        fs::read(&path).unwrap();
        let mut engine = open_one(&path, choice);
        let after = content(4, NBYTES);
        fs::write(&path, &after).unwrap();
        assert_reads(engine.as_mut(), &[read(0, 301)], &after);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(10 * PAGE as u64 + 5).unwrap();
        match run(engine.as_mut(), &[read(0, 301)]).remove(0).0 {
            Err(Error::UnexpectedEof { found, .. }) => assert_eq!(found, 10 * PAGE as u64 + 5),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn somebody_elses_file_is_read_from_the_cache_too_and_nothing_comes_into_it() {
    let content = content(3, NBYTES);
    if is_alone() {
        let path = PathBuf::from(std::env::var_os(ANYBODY).unwrap());
        let is_cached = std::env::var_os("AIRLLM_TEST_CACHED").is_some();
        for choice in [EngineChoice::Uring, EngineChoice::Direct] {
            let opened = open(std::slice::from_ref(&path), choice, IoOptions::default());
            let Ok(mut engine) = opened else { continue };
            assert_eq!(is_hot(engine.as_ref()), is_cached, "{choice:?}");
            assert_reads(engine.as_mut(), &[read(0, 301), read(80, 3)], &content);
            let expected = if is_cached { NBYTES + 3 * PAGE } else { 0 };
            assert_eq!(engine.cached_bytes(), expected as u64, "{choice:?}");
        }
        return;
    }
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return;
    }
    in_one_of_five_tries(|| read_as_nobody(&content));
}

fn read_as_nobody(content: &Vec<u8>) {
    let directory = directory();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let path = write(directory.path(), std::slice::from_ref(content)).remove(0);
    let name =
        "io::page_cache::somebody_elses_file_is_read_from_the_cache_too_and_nothing_comes_into_it";
    let mut nobody = alone(name);
    nobody.env(ANYBODY, &path).uid(65_534).gid(65_534);
    // The place may be one that nobody else may enter.
    let Ok(output) = nobody.output() else { return };
    if text(&output).contains("Permission denied") {
        return;
    }
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(cached_pages(&path), 0);
    fs::read(&path).unwrap();
    let output = nobody.env("AIRLLM_TEST_CACHED", "1").output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(cached_pages(&path), 301);
}
