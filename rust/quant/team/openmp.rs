//! The OpenMP team of this process: libgomp's, which torch loads.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::OnceLock;

use crate::quant::team::Job;

type Region = unsafe extern "C" fn(*mut c_void);
type GompParallel = unsafe extern "C" fn(Region, *mut c_void, c_uint, c_uint);
type GompMaxThreads = unsafe extern "C" fn() -> c_int;

/// What is called of a loaded libgomp.
#[derive(Clone, Copy)]
pub(super) struct OpenMp {
    parallel: GompParallel,
    max_threads: GompMaxThreads,
}

impl OpenMp {
    /// The library of this process, once one is loaded.
    pub(super) fn found() -> Option<Self> {
        static FOUND: OnceLock<OpenMp> = OnceLock::new();
        if let Some(found) = FOUND.get() {
            return Some(*found);
        }
        // not kept while absent: torch may be imported later
        let found = loaded()?;
        Some(*FOUND.get_or_init(|| found))
    }

    pub(super) fn threads(self) -> usize {
        // SAFETY: the symbol is libgomp's and takes nothing.
        let threads = unsafe { (self.max_threads)() };
        usize::try_from(threads).unwrap_or(1).max(1)
    }

    /// Let every thread of the team take part in a job, and wait.
    pub(super) fn run(self, job: &Job<'_>) {
        let data = ptr::from_ref(job).cast_mut().cast();
        // SAFETY: the symbol is libgomp's; it returns when every thread has left `region`, so the
        // job outlives them.
        unsafe { (self.parallel)(region, data, 0, 0) };
    }
}

unsafe extern "C" fn region(data: *mut c_void) {
    // SAFETY: `run` passes a job and waits for all threads.
    let job = unsafe { &*data.cast::<Job<'_>>() };
    job.take_part();
}

#[cfg(target_os = "linux")]
fn loaded() -> Option<OpenMp> {
    let mut path: Option<CString> = None;
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
        unsafe { *found.cast::<Option<CString>>() = Some(name.to_owned()) };
    }
    c_int::from(is_libgomp)
}

#[cfg(not(target_os = "linux"))]
fn loaded() -> Option<OpenMp> {
    None
}
