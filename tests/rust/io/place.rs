//! Files to read, and memory to read them into.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use airllm_rs::arena::Arena;
use airllm_rs::error::Error;
use airllm_rs::io::probe::ProbeReport;
use airllm_rs::io::{Buffer, Completion, EngineChoice, IoEngine, ReadRequest, probe};

/// Bytes in which every place differs from its neighbours and from other files.
pub(crate) fn content(seed: u64, nbytes: usize) -> Vec<u8> {
    let mut state = seed;
    (0..nbytes)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}

/// A directory on the file system that the crate is built on, which is a disk's more often than
/// that for temporary files.
pub(crate) fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Files with these contents, on the disk and not in the page cache.
pub(crate) fn write(directory: &Path, contents: &[Vec<u8>]) -> Vec<PathBuf> {
    let write = |(number, content): (usize, &Vec<u8>)| {
        let path = directory.join(format!("{number}.bin"));
        let mut file = File::create(&path).unwrap();
        file.write_all(content).unwrap();
        file.sync_all().unwrap();
        evict(&path);
        path
    };
    contents.iter().enumerate().map(write).collect()
}

/// Clear a file from the page cache.
pub(crate) fn evict(path: &Path) {
    #[cfg(target_os = "linux")]
    rustix::fs::fadvise(
        File::open(path).unwrap(),
        0,
        None,
        rustix::fs::Advice::DontNeed,
    )
    .unwrap();
    let _ = path;
}

/// Run a test that counts pages of the page cache, again if it fails: five times in a row is no
/// accident. The kernel reclaims pages, and holds on to some, whenever it makes huge ones.
#[cfg(target_os = "linux")]
pub(crate) fn in_one_of_five_tries(test: impl Fn()) {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    if (0..4).all(|_| catch_unwind(AssertUnwindSafe(&test)).is_err()) {
        test();
    }
}

/// Pages of a file that are in the page cache.
#[cfg(target_os = "linux")]
pub(crate) fn cached_pages(path: &Path) -> usize {
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

    let file = File::open(path).unwrap();
    let nbytes = file.metadata().unwrap().len() as usize;
    let mut pages = vec![0_u8; nbytes.div_ceil(4096)];
    let (access, kind) = (ProtFlags::READ, MapFlags::SHARED);
    // SAFETY: a new mapping, which is only asked about.
    let start = unsafe { mmap(std::ptr::null_mut(), nbytes, access, kind, &file, 0) }.unwrap();
    // SAFETY: the mapping just made, and a byte for each of its pages.
    let status = unsafe { libc::mincore(start, nbytes, pages.as_mut_ptr()) };
    assert_eq!(status, 0);
    // SAFETY: nobody looks at it any more.
    unsafe { munmap(start, nbytes) }.unwrap();
    pages.iter().filter(|&&page| page & 1 == 1).count()
}

/// The engines that this place has, except the fake one.
pub(crate) fn engines(directory: &Path) -> Vec<EngineChoice> {
    let path = directory.join("probe");
    std::fs::write(&path, [0; 4096]).unwrap();
    let mut reports = probe(&path);
    reports.retain(|report| report.ok);
    let choice = |report: &ProbeReport| report.engine.parse().unwrap();
    reports.iter().map(choice).collect()
}

/// A read of a plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read {
    pub(crate) file: u32,
    pub(crate) offset: u64,
    pub(crate) nbytes: usize,
    pub(crate) needed: usize,
}

impl Read {
    /// The request that reads into `arena` at `place`.
    pub(crate) fn request(&self, token: u64, arena: &Arena, place: usize) -> ReadRequest {
        assert!(place + self.nbytes <= arena.nbytes());
        let buffer = Buffer {
            ptr: arena.as_ptr().wrapping_add(place),
            nbytes: self.nbytes,
        };
        let Self {
            file,
            offset,
            needed,
            ..
        } = *self;
        ReadRequest {
            token,
            file,
            offset,
            buffer,
            needed,
        }
    }
}

/// Submit a plan and wait for all of it; what each read ended with, and its memory.
pub(crate) fn run(
    engine: &mut dyn IoEngine,
    plan: &[Read],
) -> Vec<(Result<usize, Error>, Vec<u8>)> {
    let room = plan
        .iter()
        .map(|read| read.nbytes.next_multiple_of(4096))
        .sum();
    let arena = Arena::new(room).unwrap();
    let mut places = Vec::new();
    let mut place = 0;
    for (token, read) in plan.iter().enumerate() {
        engine
            .submit(read.request(token as u64, &arena, place))
            .unwrap();
        places.push(place);
        place += read.nbytes.next_multiple_of(4096);
    }
    assert_eq!(engine.in_flight(), plan.len());
    let mut done: Vec<Completion> = Vec::new();
    while done.len() < plan.len() {
        engine.wait(&mut done, None).unwrap();
    }
    assert_eq!(engine.in_flight(), 0);
    done.sort_by_key(|completion| completion.token);
    done.into_iter()
        .zip(plan)
        .zip(places)
        .enumerate()
        .map(|(token, ((completion, read), place))| {
            assert_eq!(completion.token, token as u64);
            let start = arena.as_ptr().wrapping_add(place);
            // SAFETY: within the arena, and its read has ended.
            let bytes = unsafe { std::slice::from_raw_parts(start, read.nbytes) };
            (completion.result, bytes.to_vec())
        })
        .collect()
}

const ALONE: &str = "AIRLLM_TEST_ALONE";

/// Whether this process runs one test only, started by [`alone`].
pub(crate) fn is_alone() -> bool {
    std::env::var_os(ALONE).is_some()
}

/// The command that runs one test in a process of its own.
pub(crate) fn alone(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(arguments(name)).env(ALONE, "1");
    command
}

/// What makes this binary run one test.
pub(crate) fn arguments(name: &str) -> [&str; 5] {
    ["--exact", name, "--nocapture", "--test-threads", "1"]
}

/// What a process has said.
pub(crate) fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}
