//! One body of tests for every engine.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use proptest::test_runner::{Config, TestRunner};
use tempfile::TempDir;

use airllm_rs::arena::Arena;
use airllm_rs::error::Error;
use airllm_rs::io::fake::{FakeControl, FakeEngine, Faults};
use airllm_rs::io::{EngineChoice, IoEngine, IoOptions, open, probe};

use crate::io::place::{Read, alone, content, directory, is_alone, run, text, write};

// How a test cuts a file off while it is open.
enum Files {
    OnDisk(Vec<PathBuf>, TempDir),
    Fake(FakeControl),
}

impl Files {
    fn truncate(&self, file: usize, nbytes: usize) {
        match self {
            Self::OnDisk(paths, _) => {
                let file = OpenOptions::new().write(true).open(&paths[file]).unwrap();
                file.set_len(nbytes as u64).unwrap();
            }
            Self::Fake(control) => control.truncate(file as u32, nbytes),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Subject {
    name: &'static str,
    choice: Option<EngineChoice>,
    options: IoOptions,
}

impl Subject {
    fn open(&self, contents: &[Vec<u8>]) -> (Box<dyn IoEngine>, Files) {
        let Some(choice) = self.choice else {
            let faults = Faults {
                seed: 7,
                retry_percent: 20,
                short_percent: 20,
                is_shuffled: true,
                ..Faults::default()
            };
            let engine = FakeEngine::new(contents.to_vec(), faults);
            let control = engine.control();
            return (Box::new(engine), Files::Fake(control));
        };
        let directory = directory();
        let paths = write(directory.path(), contents);
        let engine = open(&paths, choice, self.options).unwrap();
        (engine, Files::OnDisk(paths, directory))
    }
}

// Every engine that this machine has; the buffered and the fake one are had everywhere.
fn for_each_engine(test: impl Fn(&Subject)) {
    let directory = directory();
    let path = write(directory.path(), &[vec![0; 4096]]).remove(0);
    let reports = probe(&path);
    let has = |name| {
        reports
            .iter()
            .any(|report| report.engine == name && report.ok)
    };
    assert!(has("buffered"));
    let options = IoOptions {
        queue_depth: 4,
        ..IoOptions::default()
    };
    let slow = IoOptions {
        throttle_gbps: Some(4.0),
        latency_us: 50,
        ..options
    };
    let subjects = [
        Subject {
            name: "uring",
            choice: Some(EngineChoice::Uring),
            options,
        },
        Subject {
            name: "uring",
            choice: Some(EngineChoice::Uring),
            options: IoOptions {
                registered_files: true,
                ..options
            },
        },
        Subject {
            name: "direct",
            choice: Some(EngineChoice::Direct),
            options,
        },
        Subject {
            name: "buffered",
            choice: Some(EngineChoice::Buffered),
            options,
        },
        Subject {
            name: "buffered",
            choice: Some(EngineChoice::Buffered),
            options: slow,
        },
        Subject {
            name: "mmap",
            choice: Some(EngineChoice::Mmap),
            options,
        },
        Subject {
            name: "fake",
            choice: None,
            options,
        },
    ];
    for subject in subjects {
        if subject.choice.is_none() || has(subject.name) {
            test(&subject);
        }
    }
}

// A read of what a file has from a block on, into so many blocks.
fn blocks(alignment: usize, file_nbytes: usize, file: u32, first: usize, count: usize) -> Read {
    let offset = first * alignment;
    let nbytes = count * alignment;
    let needed = nbytes.min(file_nbytes.saturating_sub(offset));
    Read {
        file,
        offset: offset as u64,
        nbytes,
        needed,
    }
}

#[test]
fn random_plans_read_what_is_in_the_files() {
    let sizes = [100_000, 12_345, 4096, 3];
    let contents: Vec<_> = (0..).zip(sizes).map(|(seed, n)| content(seed, n)).collect();
    for_each_engine(|subject| {
        let (mut engine, _files) = subject.open(&contents);
        assert_eq!(engine.name(), subject.name);
        let is_registered = engine.features().contains(&"registered files");
        assert_eq!(is_registered, subject.options.registered_files);
        let alignment = engine.alignment();
        assert!(alignment.is_power_of_two());
        let step = alignment.max(512);
        // More reads than the queue is deep.
        let reads = proptest::collection::vec((0..4_usize, 0..200_usize, 1..40_usize), 1..30);
        let engine = std::cell::RefCell::new(&mut engine);
        TestRunner::new(Config::with_cases(12))
            .run(&reads, |reads| {
                let plan: Vec<_> = reads
                    .into_iter()
                    .map(|(file, first, count)| {
                        let first = first % sizes[file].div_ceil(step);
                        blocks(step, sizes[file], file as u32, first, count)
                    })
                    .collect();
                for (read, (result, bytes)) in
                    plan.iter().zip(run(engine.borrow_mut().as_mut(), &plan))
                {
                    let nbytes = result.unwrap();
                    assert!(nbytes >= read.needed && nbytes <= read.nbytes);
                    let start = read.offset as usize;
                    let expected = &contents[read.file as usize][start..start + read.needed];
                    assert!(bytes[..read.needed] == *expected, "{subject:?} {read:?}");
                }
                Ok(())
            })
            .unwrap();
    });
}

#[test]
fn the_unaligned_end_of_a_file_arrives() {
    let contents = [content(1, 10_001)];
    for_each_engine(|subject| {
        let (mut engine, _files) = subject.open(&contents);
        let read = Read {
            file: 0,
            offset: 8192,
            nbytes: 4096,
            needed: 10_001 - 8192,
        };
        let (result, bytes) = run(engine.as_mut(), &[read]).remove(0);
        assert_eq!(result.unwrap(), read.needed);
        assert_eq!(bytes[..read.needed], contents[0][8192..]);
    });
}

fn assert_eof(result: Result<usize, Error>, at: u64, needed: u64, there: u64) {
    match result.unwrap_err() {
        Error::UnexpectedEof {
            path,
            offset,
            expected,
            found,
        } => {
            assert!(!path.as_os_str().is_empty());
            assert_eq!((offset, expected, found), (at, needed, there));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_file_that_ends_early_is_an_error_with_path_offset_and_both_lengths() {
    for_each_engine(|subject| {
        let (mut engine, _files) = subject.open(&[content(1, 10_001), Vec::new()]);
        let reads = [
            Read {
                file: 0,
                offset: 8192,
                nbytes: 4096,
                needed: 1810,
            },
            Read {
                file: 0,
                offset: 0,
                nbytes: 16_384,
                needed: 16_384,
            },
            Read {
                file: 0,
                offset: 12_288,
                nbytes: 4096,
                needed: 1,
            },
            Read {
                file: 1,
                offset: 0,
                nbytes: 4096,
                needed: 1,
            },
            Read {
                file: 1,
                offset: 0,
                nbytes: 4096,
                needed: 0,
            },
        ];
        let mut results = run(engine.as_mut(), &reads)
            .into_iter()
            .map(|(result, _)| result);
        assert_eof(results.next().unwrap(), 8192, 1810, 1809);
        assert_eof(results.next().unwrap(), 0, 16_384, 10_001);
        assert_eof(results.next().unwrap(), 12_288, 1, 0);
        assert_eof(results.next().unwrap(), 0, 1, 0);
        assert_eq!(results.next().unwrap().unwrap(), 0);
    });
}

#[test]
fn a_file_cut_off_while_it_is_open_is_an_error_and_the_engine_goes_on() {
    let contents = [content(1, 65_536), content(2, 4096)];
    for_each_engine(|subject| {
        let (mut engine, files) = subject.open(&contents);
        let whole = Read {
            file: 0,
            offset: 0,
            nbytes: 65_536,
            needed: 65_536,
        };
        assert_eq!(run(engine.as_mut(), &[whole]).remove(0).0.unwrap(), 65_536);
        files.truncate(0, 30_001);
        let other = Read {
            file: 1,
            offset: 0,
            nbytes: 4096,
            needed: 4096,
        };
        let mut results = run(engine.as_mut(), &[whole, other]);
        assert_eq!(results.pop().unwrap().0.unwrap(), 4096);
        assert_eof(results.pop().unwrap().0, 0, 65_536, 30_001);
    });
}

#[test]
fn a_request_that_does_not_fit_is_refused_and_nothing_is_in_flight() {
    for_each_engine(|subject| {
        let (mut engine, _files) = subject.open(&[content(1, 8192)]);
        let alignment = engine.alignment();
        let arena = Arena::new(8192).unwrap();
        let good = Read {
            file: 0,
            offset: 0,
            nbytes: 4096,
            needed: 4096,
        };
        let mut bad = vec![
            Read { file: 1, ..good },
            Read {
                needed: 4097,
                ..good
            },
            Read {
                offset: 1 << 63,
                ..good
            },
        ];
        if alignment > 1 {
            bad.push(Read { offset: 1, ..good });
            bad.push(Read {
                nbytes: 4095,
                needed: 0,
                ..good
            });
        }
        for read in bad {
            let result = engine.submit(read.request(0, &arena, 0));
            assert!(matches!(result, Err(Error::BadRequest { .. })), "{read:?}");
        }
        if alignment > 1 {
            let result = engine.submit(good.request(0, &arena, 1));
            assert!(matches!(result, Err(Error::BadRequest { .. })));
        }
        assert_eq!(engine.in_flight(), 0);
    });
}

#[test]
fn a_wait_ends_when_somebody_wakes_before_or_during_it() {
    for_each_engine(|subject| {
        let (mut engine, _files) = subject.open(&[content(1, 4096)]);
        let mut done = Vec::new();
        let waker = engine.waker();
        waker.wake();
        waker.wake();
        engine.wait(&mut done, None).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| waker.wake());
            engine.wait(&mut done, None).unwrap();
        });
        assert!(done.is_empty());
        drop(engine);
        waker.wake();
    });
}

#[test]
fn a_wait_ends_in_time_when_nothing_happens() {
    for_each_engine(|subject| {
        let (mut engine, _files) = subject.open(&[content(1, 4096)]);
        let mut done = Vec::new();
        engine.wait(&mut done, Some(Duration::ZERO)).unwrap();
        engine
            .wait(&mut done, Some(Duration::from_millis(5)))
            .unwrap();
        assert!(done.is_empty());
    });
}

#[test]
fn nothing_is_written_after_an_engine_was_dropped() {
    let contents = [content(1, 1 << 20)];
    for_each_engine(|subject| {
        let (mut engine, _files) = subject.open(&contents);
        let arena = Arena::new(16 << 20).unwrap();
        for token in 0..16_usize {
            let read = Read {
                file: 0,
                offset: 0,
                nbytes: 1 << 20,
                needed: 1 << 20,
            };
            engine
                .submit(read.request(token as u64, &arena, token << 20))
                .unwrap();
        }
        drop(engine);
        // SAFETY: nobody else has the memory any more.
        let bytes = unsafe { std::slice::from_raw_parts_mut(arena.as_ptr(), arena.nbytes()) };
        bytes.fill(0xab);
        thread::yield_now();
        assert!(bytes.iter().all(|&byte| byte == 0xab));
    });
}

#[test]
fn an_engine_moves_to_the_thread_that_uses_it() {
    let contents = [content(1, 8192)];
    for_each_engine(|subject| {
        let (mut engine, _files) = subject.open(&contents);
        let read = Read {
            file: 0,
            offset: 4096,
            nbytes: 4096,
            needed: 4096,
        };
        let (result, bytes) = thread::spawn(move || run(engine.as_mut(), &[read]).remove(0))
            .join()
            .unwrap();
        assert_eq!(result.unwrap(), 4096);
        assert_eq!(bytes, contents[0][4096..]);
    });
}

// Submit on another thread, and drop here while that one sleeps or after it has ended.
fn drop_elsewhere(is_ended: bool) {
    for_each_engine(|subject| {
        let (mut engine, _files) = subject.open(&[content(1, 1 << 20)]);
        let arena = Arena::new(1 << 20).unwrap();
        let read = Read {
            file: 0,
            offset: 0,
            nbytes: 1 << 20,
            needed: 1 << 20,
        };
        let request = read.request(0, &arena, 0);
        let (engines, submitted) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let user = thread::spawn(move || {
            engine.submit(request).unwrap();
            engines.send(engine).unwrap();
            if !is_ended {
                let _ = ended.recv();
            }
        });
        let engine = submitted.recv().unwrap();
        if is_ended {
            user.join().unwrap();
            drop(engine);
        } else {
            drop(engine);
            drop(end);
            user.join().unwrap();
        }
    });
}

#[test]
fn an_engine_can_be_dropped_beside_the_thread_that_used_it() {
    drop_elsewhere(false);
}

#[test]
fn an_engine_outlives_the_thread_that_used_it() {
    drop_elsewhere(true);
}

#[cfg(target_os = "linux")]
#[test]
fn many_opens_leave_no_descriptor_and_no_thread() {
    // Other tests open files too: counted in a process of its own.
    let name = "io::engines::many_opens_leave_no_descriptor_and_no_thread";
    if !is_alone() {
        let output = alone(name).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        return;
    }
    let count = |path| Path::new(path).read_dir().unwrap().count();
    for_each_engine(|subject| {
        let contents = [content(1, 4096), content(2, 4096)];
        let (engine, files) = subject.open(&contents);
        drop(engine);
        let Files::OnDisk(paths, _directory) = files else {
            return;
        };
        let before = (count("/proc/self/fd"), count("/proc/self/task"));
        for _ in 0..500 {
            let choice = subject.choice.unwrap();
            let mut engine = open(&paths, choice, subject.options).unwrap();
            let read = Read {
                file: 1,
                offset: 0,
                nbytes: 4096,
                needed: 4096,
            };
            run(engine.as_mut(), &[read]).remove(0).0.unwrap();
        }
        assert_eq!(count("/proc/self/fd"), before.0, "{subject:?}");
        assert!(count("/proc/self/task") <= before.1 + 1, "{subject:?}");
    });
}

#[cfg(target_os = "linux")]
#[test]
fn nothing_is_left_in_the_page_cache() {
    use crate::io::place::cached_pages;

    let contents = [content(1, 3 << 20)];
    for_each_engine(|subject| {
        let (mut engine, files) = subject.open(&contents);
        let Files::OnDisk(paths, _directory) = files else {
            return;
        };
        // What a mapping reads stays.
        if subject.name == "mmap" {
            return;
        }
        let before = cached_pages(&paths[0]);
        // Odd pieces where the engine takes them: two of them share a page.
        let cut = if engine.alignment() == 1 {
            1_000_001
        } else {
            1 << 20
        };
        let rest = contents[0].len() - cut;
        let plan = [
            Read {
                file: 0,
                offset: 0,
                nbytes: cut,
                needed: cut,
            },
            Read {
                file: 0,
                offset: cut as u64,
                nbytes: rest,
                needed: rest,
            },
        ];
        for (result, _) in run(engine.as_mut(), &plan) {
            result.unwrap();
        }
        assert!(cached_pages(&paths[0]) <= before, "{subject:?}");
    });
}
