//! The clock of all times here: the one that Python calls `time.monotonic_ns`.

/// Nanoseconds since some moment of this boot; never 0.
#[cfg(unix)]
pub(crate) fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let part = |value| u64::try_from(value).unwrap_or(0);
    (part(now.tv_sec) * 1_000_000_000 + part(now.tv_nsec)).max(1)
}

/// Nanoseconds since the first call; never 0. Not built here.
#[cfg(not(unix))]
pub(crate) fn now_ns() -> u64 {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    let start = START.get_or_init(std::time::Instant::now);
    u64::try_from(start.elapsed().as_nanos())
        .unwrap_or(u64::MAX)
        .max(1)
}
