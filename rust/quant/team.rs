//! Threads for kernels: torch's own OpenMP team where it is loaded, else threads of this call.
//!
//! A team that has just computed for torch is still spinning: work given to it starts at once, and
//! no second set of threads competes with it for the cores.

use std::any::Any;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::{Mutex, OnceLock};
use std::thread;

use crate::sync::atomic::{AtomicUsize, Ordering};

type Region = unsafe extern "C" fn(*mut c_void);
type GompParallel = unsafe extern "C" fn(Region, *mut c_void, c_uint, c_uint);
type GompMaxThreads = unsafe extern "C" fn() -> c_int;

#[derive(Clone, Copy)]
struct OpenMp {
    parallel: GompParallel,
    max_threads: GompMaxThreads,
}

/// What threads take their pieces from.
struct Job<'a> {
    next: AtomicUsize,
    pieces: usize,
    work: &'a (dyn Fn(usize) + Sync),
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Call `work` once with each number below `pieces`, on all threads of the team, and wait.
///
/// # Panics
/// If `work` does.
pub fn run(pieces: usize, work: &(dyn Fn(usize) + Sync)) {
    if pieces <= 1 {
        (0..pieces).for_each(work);
        return;
    }
    let job = Job {
        next: AtomicUsize::new(0),
        pieces,
        work,
        panic: Mutex::new(None),
    };
    if let Some(openmp) = openmp() {
        let data = ptr::from_ref(&job).cast_mut().cast();
        // SAFETY: the symbol is libgomp's; it returns when every thread has left `region`, so the
        // job outlives them.
        unsafe { (openmp.parallel)(region, data, 0, 0) };
    } else {
        let others = threads().min(pieces) - 1;
        thread::scope(|scope| {
            for _ in 0..others {
                scope.spawn(|| job.take_part());
            }
            job.take_part();
        });
    }
    if let Some(panic) = job.panic.into_inner().unwrap_or(None) {
        resume_unwind(panic);
    }
}

/// How many threads a team has.
#[must_use]
pub fn threads() -> usize {
    match openmp() {
        // SAFETY: the symbol is libgomp's and takes nothing.
        Some(openmp) => usize::try_from(unsafe { (openmp.max_threads)() }).unwrap_or(1),
        None => thread::available_parallelism().map_or(1, usize::from),
    }
}

/// Whether there is an OpenMP team to run on.
#[must_use]
pub fn is_openmp() -> bool {
    openmp().is_some()
}

impl Job<'_> {
    fn take_part(&self) {
        // A panic must not cross into C.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            loop {
                // Relaxed: only the count matters; the region's end orders the results.
                let piece = self.next.fetch_add(1, Ordering::Relaxed);
                if piece >= self.pieces {
                    break;
                }
                (self.work)(piece);
            }
        }));
        if let Err(panic) = outcome
            && let Ok(mut kept) = self.panic.lock()
        {
            kept.get_or_insert(panic);
        }
    }
}

unsafe extern "C" fn region(data: *mut c_void) {
    // SAFETY: `run` passes a job and waits for all threads.
    let job = unsafe { &*data.cast::<Job<'_>>() };
    job.take_part();
}

/// The OpenMP library of this process, once one is loaded.
fn openmp() -> Option<OpenMp> {
    static FOUND: OnceLock<OpenMp> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Some(*found);
    }
    // not kept while absent: torch may be imported later
    let found = loaded()?;
    Some(*FOUND.get_or_init(|| found))
}

#[cfg(target_os = "linux")]
fn loaded() -> Option<OpenMp> {
    let mut path: Option<std::ffi::CString> = None;
    // SAFETY: the callback gets the pointer that is passed here, which lives until the call returns.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut path).cast()) };
    let path = path?;
    // SAFETY: the path is a C string; nothing is loaded that is not there.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
    if library.is_null() {
        return None;
    }
    // SAFETY: the library is open, and stays open: the handle is never closed.
    let parallel = unsafe { libc::dlsym(library, c"GOMP_parallel".as_ptr()) };
    // SAFETY: as above.
    let max_threads = unsafe { libc::dlsym(library, c"omp_get_max_threads".as_ptr()) };
    if parallel.is_null() || max_threads.is_null() {
        return None;
    }
    Some(OpenMp {
        // SAFETY: libgomp documents this signature of the symbol.
        parallel: unsafe { std::mem::transmute::<*mut c_void, GompParallel>(parallel) },
        // SAFETY: OpenMP documents this signature of the symbol.
        max_threads: unsafe { std::mem::transmute::<*mut c_void, GompMaxThreads>(max_threads) },
    })
}

/// Keep the path of the first loaded library that is called libgomp.
#[cfg(target_os = "linux")]
unsafe extern "C" fn look(
    info: *mut libc::dl_phdr_info,
    _size: usize,
    found: *mut c_void,
) -> c_int {
    // SAFETY: the loader passes a valid description.
    let name: *const c_char = unsafe { (*info).dlpi_name };
    if name.is_null() {
        return 0;
    }
    // SAFETY: names of loaded libraries are C strings.
    let name = unsafe { CStr::from_ptr(name) };
    let is_libgomp = name
        .to_bytes()
        .rsplit(|&byte| byte == b'/')
        .next()
        .is_some_and(|file| file.starts_with(b"libgomp"));
    if is_libgomp {
        // SAFETY: `loaded` passes a pointer to this type.
        unsafe { *found.cast::<Option<std::ffi::CString>>() = Some(name.to_owned()) };
    }
    c_int::from(is_libgomp)
}

#[cfg(not(target_os = "linux"))]
fn loaded() -> Option<OpenMp> {
    None
}
