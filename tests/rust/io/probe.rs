//! The probe tells what works and why the rest does not.

use std::str::FromStr as _;

use airllm_rs::error::Error;
use airllm_rs::io::{EngineChoice, IoOptions, choose, open, probe};

use crate::io::place::{content, directory, write};

#[test]
fn auto_is_the_first_engine_that_passed() {
    let directory = directory();
    let paths = write(directory.path(), &[content(1, 5000)]);
    let reports = probe(&paths[0]);
    let names: Vec<_> = reports.iter().map(|report| report.engine).collect();
    assert_eq!(names, ["uring", "direct", "buffered", "mmap"]);
    for report in &reports {
        // What can be used has a reason only as a remark.
        assert!(report.ok || report.reason.is_some());
        assert_eq!(report.ok, report.alignment > 0);
    }
    let first = reports.iter().find(|report| report.ok).unwrap();
    let engine = open(&paths, EngineChoice::Auto, IoOptions::default()).unwrap();
    assert_eq!(
        (engine.name(), engine.alignment()),
        (first.engine, first.alignment)
    );
}

#[test]
fn an_empty_file_and_no_file_can_be_opened() {
    let directory = directory();
    let paths = write(directory.path(), &[Vec::new()]);
    assert!(probe(&paths[0]).iter().any(|report| report.ok));
    for paths in [&paths[..], &[]] {
        open(paths, EngineChoice::Auto, IoOptions::default()).unwrap();
    }
}

#[test]
fn a_missing_file_is_said_to_be_missing_by_every_choice() {
    let directory = directory();
    let absent = directory.path().join("absent");
    for name in ["auto", "uring", "direct", "buffered", "mmap"] {
        let choice = EngineChoice::from_str(name).unwrap();
        match open(std::slice::from_ref(&absent), choice, IoOptions::default()) {
            Err(Error::Open { path, .. }) => assert_eq!(path, absent),
            _ => panic!("{name}"),
        }
    }
    let is_directory = open(
        &[directory.path().to_owned()],
        EngineChoice::Auto,
        IoOptions::default(),
    );
    assert!(is_directory.is_err_and(|error| error.to_string().contains("not a regular file")));
}

#[cfg(target_os = "linux")]
#[test]
fn an_engine_that_cannot_work_is_an_error_with_the_reason_and_auto_goes_on() {
    // The kernel's own files refuse O_DIRECT.
    let path = std::path::PathBuf::from("/proc/self/maps");
    let reports = probe(&path);
    assert!(
        !reports[1].ok
            && reports[1]
                .reason
                .as_ref()
                .is_some_and(|why| why.contains("O_DIRECT"))
    );
    let paths = [path];
    match open(&paths, EngineChoice::Direct, IoOptions::default()) {
        Err(Error::EngineUnavailable {
            engine: "direct",
            path,
            reason,
        }) => {
            assert_eq!(path, paths[0]);
            assert!(reason.contains("O_DIRECT"), "{reason}");
        }
        other => panic!("{:?}", other.map(|engine| engine.name())),
    }
    let opened = choose(&paths, EngineChoice::Auto, IoOptions::default()).unwrap();
    assert_eq!(opened.engine.name(), "buffered");
    let [uring, direct] = opened.refusals.try_into().unwrap();
    assert_eq!((uring.0, direct.0), ("uring", "direct"));
    assert!(direct.1.contains("O_DIRECT"), "{}", direct.1);
}

#[cfg(target_os = "linux")]
#[test]
fn a_probe_leaves_the_page_cache_as_it_was() {
    crate::io::place::in_one_of_five_tries(check_page_cache);
}

#[cfg(target_os = "linux")]
fn check_page_cache() {
    use crate::io::place::cached_pages;

    let directory = directory();
    let paths = write(directory.path(), &[content(1, 5 * 4096)]);
    for choice in [EngineChoice::Auto, EngineChoice::Direct] {
        let opened = choose(&paths, choice, IoOptions::default()).unwrap();
        assert_eq!(cached_pages(&paths[0]), 0, "{}", opened.engine.name());
    }
    std::fs::read(&paths[0]).unwrap();
    let reports = probe(&paths[0]);
    // A page that was there is no residue of the probe's.
    for report in reports.iter().filter(|report| report.engine == "direct") {
        assert!(!report.residue || report.reason.is_some());
    }
    choose(&paths, EngineChoice::Auto, IoOptions::default()).unwrap();
    assert_eq!(cached_pages(&paths[0]), 5);
}

#[test]
fn options_out_of_bounds_are_errors_that_say_the_bounds() {
    for options in [
        IoOptions {
            queue_depth: 0,
            ..IoOptions::default()
        },
        IoOptions {
            queue_depth: 4097,
            ..IoOptions::default()
        },
        IoOptions {
            throttle_gbps: Some(0.0),
            ..IoOptions::default()
        },
        IoOptions {
            throttle_gbps: Some(f64::NAN),
            ..IoOptions::default()
        },
    ] {
        let result = open(&[], EngineChoice::Buffered, options);
        assert!(matches!(result, Err(Error::IoOption { .. })));
    }
    assert!(matches!(
        EngineChoice::from_str("libaio"),
        Err(Error::UnknownEngine { .. })
    ));
}
