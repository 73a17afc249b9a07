//! A team does each piece once, whatever happens around it.

use std::sync::atomic::{AtomicUsize, Ordering};

use airllm_rs::quant::team;

fn count(pieces: usize) -> usize {
    let done = AtomicUsize::new(0);
    team::run(pieces, &|_| {
        done.fetch_add(1, Ordering::Relaxed);
    });
    done.into_inner()
}

#[test]
fn calls_from_many_threads_at_once() {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for pieces in 0..500 {
                    assert_eq!(count(pieces), pieces);
                }
            });
        }
    });
}

#[test]
fn a_piece_may_run_a_team() {
    let done = AtomicUsize::new(0);
    team::run(8, &|_| {
        done.fetch_add(count(5), Ordering::Relaxed);
    });
    assert_eq!(done.into_inner(), 40);
}

#[test]
fn a_panic_of_a_piece_arrives() {
    let outcome = std::panic::catch_unwind(|| team::run(32, &|piece| assert_ne!(piece, 7)));
    assert!(outcome.is_err());
    assert_eq!(count(32), 32);
}

#[cfg(unix)]
#[test]
fn a_forked_process_has_a_team_of_its_own() {
    assert_eq!(count(64), 64);
    // SAFETY: the child calls code that does not rely on other threads, and leaves by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let is_right = count(64) == 64 && count(3) == 3;
        // SAFETY: ends this process.
        unsafe { libc::_exit(i32::from(!is_right)) };
    }
    let mut status = -1;
    // SAFETY: the pointer is valid for the call.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!((waited, status), (child, 0));
}
