//! Every engine reads the same bytes on every file system that can be mounted here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::test_runner::{Config, TestRunner};

use airllm_rs::io::{EngineChoice, IoOptions, open};

use crate::io::bench::{measure, point};
use crate::io::place::{
    Read, arguments, cached_pages, content, directory, engines, evict, in_one_of_five_tries,
    is_alone, run, text, write,
};

const PLACE: &str = "AIRLLM_TEST_PLACE";
const NAME: &str = "io::mounts::engines_read_what_read_reads_on_every_file_system";
const SIZES: [usize; 3] = [300_001, 4096, 70_000];

fn contents() -> Vec<Vec<u8>> {
    (0..).zip(SIZES).map(|(seed, n)| content(seed, n)).collect()
}

fn mount(kind: &str, options: &str, at: &Path) -> bool {
    let mut command = Command::new("mount");
    command.args(["-t", kind, "-o", options, kind]).arg(at);
    command.status().is_ok_and(|status| status.success())
}

// The disk's file system and what can be mounted on it; only this process sees that.
fn places(root: &Path) -> Vec<PathBuf> {
    let names = [
        "disk", "memory", "lower", "upper", "work", "overlay", "btrfs",
    ];
    let paths = names.map(|name| root.join(name));
    for path in &paths {
        fs::create_dir(path).unwrap();
    }
    let [disk, memory, lower, upper, work, overlay, btrfs] = paths;
    write(&lower, &contents());
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        upper.display(),
        work.display()
    );
    let mut places = vec![disk];
    places.extend(mount("tmpfs", "size=16m", &memory).then_some(memory));
    places.extend(mount("overlay", &options, &overlay).then_some(overlay));
    // Its direct reads come into the page cache.
    let image = root.join("image");
    fs::File::create(&image)
        .unwrap()
        .set_len(300 << 20)
        .unwrap();
    let made = Command::new("mkfs.btrfs").arg("-q").arg(&image).status();
    if made.is_ok_and(|status| status.success()) {
        let mut command = Command::new("mount");
        command.args(["-o", "loop,compress=zstd"]);
        let status = command.arg(&image).arg(&btrfs).status();
        places.extend(status.is_ok_and(|status| status.success()).then_some(btrfs));
    }
    places
}

fn check(paths: &[PathBuf], choice: EngineChoice, page_cache: bool) {
    let options = IoOptions {
        page_cache,
        queue_depth: 4,
        ..IoOptions::default()
    };
    let engine = open(paths, choice, options).unwrap();
    let step = engine.alignment().max(512);
    let engine = std::cell::RefCell::new(engine);
    let reads = proptest::collection::vec((0..paths.len(), 0..600_usize, 1..200_usize), 1..20);
    TestRunner::new(Config::with_cases(8))
        .run(&reads, |reads| {
            let expected: Vec<_> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
            let plan: Vec<_> = reads
                .into_iter()
                .map(|(file, first, count)| {
                    let offset = first % expected[file].len().div_ceil(step) * step;
                    let nbytes = count * step;
                    Read {
                        file: file as u32,
                        offset: offset as u64,
                        nbytes,
                        needed: nbytes.min(expected[file].len() - offset),
                    }
                })
                .collect();
            let results = run(engine.borrow_mut().as_mut(), &plan);
            for (read, (result, bytes)) in plan.iter().zip(results) {
                assert!(result.unwrap() >= read.needed);
                let start = read.offset as usize;
                let expected = &expected[read.file as usize][start..start + read.needed];
                assert!(bytes[..read.needed] == *expected, "{choice:?} {read:?}");
            }
            Ok(())
        })
        .unwrap();
}

// Reads leave nothing in a page cache that they do not live in.
fn check_cache(path: &PathBuf, choice: EngineChoice) {
    evict(path);
    let mut engine = open(std::slice::from_ref(path), choice, IoOptions::default()).unwrap();
    let block = 65_536;
    let read = |number| Read {
        file: 0,
        offset: (number * block) as u64,
        nbytes: block,
        needed: block.min(SIZES[0] - number * block),
    };
    let plan: Vec<_> = (0..SIZES[0].div_ceil(block)).map(read).collect();
    for (result, _) in run(engine.as_mut(), &plan) {
        result.unwrap();
    }
    assert_eq!(cached_pages(path), 0, "{choice:?} {path:?}");
}

// What is in the page cache is read from there, what is not stays out, and both can be told.
fn check_hot_and_cold(paths: &[PathBuf], choice: EngineChoice) {
    let path = &paths[0];
    let open = || open(std::slice::from_ref(path), choice, IoOptions::default()).unwrap();
    let plan = [Read {
        file: 0,
        offset: 0,
        nbytes: SIZES[0].next_multiple_of(4096),
        needed: SIZES[0],
    }];
    let content = fs::read(path).unwrap();
    let pages = cached_pages(path);
    let mut engine = open();
    assert!(
        engine.features().contains(&"page cache"),
        "{choice:?} {path:?}"
    );
    let (result, bytes) = run(engine.as_mut(), &plan).remove(0);
    assert!(result.unwrap() >= SIZES[0] && bytes[..SIZES[0]] == content);
    assert_eq!(
        engine.cached_bytes(),
        SIZES[0] as u64,
        "{choice:?} {path:?}"
    );
    assert_eq!(cached_pages(path), pages);
    evict(path);
    assert!(
        !open().features().contains(&"page cache"),
        "{choice:?} {path:?}"
    );
    let measured = measure(point(&paths[..1], choice, None)).unwrap();
    assert_eq!((measured.cached_bytes, measured.left.cached), (0, 0));
    assert!(measured.left.sampled > 0);
}

// Of somebody else's file an overlay tells nothing, and mincore that all of it is there.
fn check_foreign(path: &Path, choice: EngineChoice) {
    let nobody = Some(65_534);
    std::os::unix::fs::chown(path, nobody, nobody).unwrap();
    fs::read(path).unwrap();
    let options = IoOptions::default();
    let engine = open(&[path.to_owned()], choice, options).unwrap();
    assert!(!engine.features().contains(&"page cache"), "{choice:?}");
}

#[test]
fn engines_read_what_read_reads_on_every_file_system() {
    if !is_alone() {
        let directory = directory();
        let mut command = Command::new("unshare");
        command.arg("--mount").arg(std::env::current_exe().unwrap());
        command
            .args(arguments(NAME))
            .env("AIRLLM_TEST_ALONE", "1")
            .env(PLACE, directory.path());
        // Whoever may not mount has the disk only.
        let may_mount = Command::new("unshare").args(["--mount", "true"]).output();
        if may_mount.is_ok_and(|output| output.status.success()) {
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", text(&output));
        }
        return;
    }
    let places = places(Path::new(&std::env::var_os(PLACE).unwrap()));
    let mut all = Vec::new();
    for place in &places {
        let mut paths = write(place, &contents());
        for choice in engines(place) {
            check(&paths, choice, true);
            check(&paths, choice, false);
            // Memory is the only home of the files there.
            if choice == EngineChoice::Mmap || place.ends_with("memory") {
                continue;
            }
            in_one_of_five_tries(|| check_cache(&paths[0], choice));
            if choice != EngineChoice::Buffered {
                in_one_of_five_tries(|| check_hot_and_cold(&paths, choice));
                if place.ends_with("overlay") {
                    check_foreign(&paths[1], choice);
                }
            }
        }
        all.append(&mut paths);
    }
    // One engine for all of them.
    check(&all, EngineChoice::Auto, true);
}
