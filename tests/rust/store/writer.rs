//! Files of a store hold what they should, and are whole or absent wherever the writer stops.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use safetensors::SafeTensors;

use airllm_rs::error::{Error, StoreError};
use airllm_rs::quant::encode::{Effort, encode_row};
use airllm_rs::quant::scheme::Scheme;
use airllm_rs::store::Step;

use crate::store::making::{COLS, Made, ROWS, job, matrix, tensor, three_layers};

fn values(bytes: &[u8]) -> Vec<f32> {
    let one = |pair: &[u8]| f32::from_bits(u32::from(u16::from_le_bytes([pair[0], pair[1]])) << 16);
    bytes.chunks_exact(2).map(one).collect()
}

#[test]
fn copied_tensors_have_the_bytes_of_the_source() {
    let made = Made::new();
    let jobs = three_layers(None);
    let records = made.make(jobs.clone());
    assert_eq!(records.len(), 3);
    for (job, record) in jobs.iter().zip(&records) {
        assert_eq!(job.name, record.name);
        let file = fs::read(made.store().join(&job.name)).unwrap();
        assert_eq!(file.len() as u64, record.nbytes);
        let found = SafeTensors::deserialize(&file).unwrap();
        for tensor in &job.tensors {
            let at = tensor.source.offset as usize;
            let expected = &made.source[at..at + tensor.source.nbytes as usize];
            assert_eq!(found.tensor(&tensor.name).unwrap().data(), expected);
        }
    }
}

#[test]
fn encoded_tensors_are_what_the_encoder_makes_of_each_row() {
    for scheme in Scheme::ALL {
        let made = Made::new();
        made.make(vec![job("a", vec![matrix("x.weight", 6, Some(scheme))])]);
        let file = fs::read(made.store().join("a.safetensors")).unwrap();
        let found = SafeTensors::deserialize(&file).unwrap();
        let (q_name, scale_name) = match scheme {
            Scheme::Nf4 => ("x.weight", "x.weight.absmax"),
            _ => ("x.weight.q", "x.weight.scale"),
        };
        let (q, scale) = (
            found.tensor(q_name).unwrap(),
            found.tensor(scale_name).unwrap(),
        );
        let cols = COLS as usize;
        let (q_nbytes, scale_nbytes) = (scheme.q_bytes(cols), scheme.scale_bytes(cols));
        for row in 0..ROWS as usize {
            let at = 6 + row * 2 * cols;
            let (mut q_row, mut scale_row) = (vec![0; q_nbytes], vec![0; scale_nbytes]);
            let numbers = values(&made.source[at..at + 2 * cols]);
            let factor = encode_row(scheme, Effort::Fast, &numbers, &mut q_row, &mut scale_row);
            let factor = factor.ok().unwrap();
            assert_eq!(&q.data()[row * q_nbytes..][..q_nbytes], q_row);
            assert_eq!(
                &scale.data()[row * scale_nbytes..][..scale_nbytes],
                scale_row
            );
            if scheme.has_row() {
                let factors = found.tensor("x.weight.row").unwrap();
                assert_eq!(&factors.data()[4 * row..][..4], factor.to_le_bytes());
            }
        }
    }
}

#[test]
fn a_matrix_with_what_is_no_number_is_copied_and_the_rest_is_encoded() {
    let mut made = Made::new();
    let at = (6 + 2 * 60 * COLS) as usize;
    made.source[at..at + 2].copy_from_slice(&0x7fc0_u16.to_le_bytes());
    fs::write(made.home.path().join("source"), &made.source).unwrap();
    let tensors = vec![
        matrix("good.weight", 20_000, Some(Scheme::Int8)),
        matrix("bad.weight", 6, Some(Scheme::Int8)),
    ];
    let jobs = vec![job("a", tensors)];
    let records = made.make(jobs.clone());
    assert_eq!(records[0].not_finite, ["bad.weight"]);
    let file = fs::read(made.store().join("a.safetensors")).unwrap();
    let found = SafeTensors::deserialize(&file).unwrap();
    let nbytes = (2 * ROWS * COLS) as usize;
    assert_eq!(
        found.tensor("bad.weight").unwrap().data(),
        &made.source[6..6 + nbytes]
    );
    assert!(found.tensor("good.weight.q").is_ok());
    // It is known to be like this when it is looked at again.
    let (again, progress) = made.write(jobs, &|_, _| Ok(()));
    assert_eq!((again.unwrap(), progress.made()), (records, 0));
    assert_eq!(progress.nbytes(), 2 * nbytes as u64);
}

#[test]
fn finished_files_are_not_made_again_unless_scheme_or_source_differ() {
    let made = Made::new();
    made.make(three_layers(None));
    let (_, progress) = made.write(three_layers(None), &|_, _| Ok(()));
    assert_eq!((progress.made(), progress.reused()), (0, 3));
    let mut other = three_layers(None);
    for job in &mut other {
        job.metadata
            .insert("source".to_owned(), "another".to_owned());
    }
    let (_, progress) = made.write(other, &|_, _| Ok(()));
    assert_eq!((progress.made(), progress.reused()), (3, 0));
    let (_, progress) = made.write(three_layers(Some(Scheme::Four)), &|_, _| Ok(()));
    assert_eq!((progress.made(), progress.reused()), (3, 0));
}

#[test]
fn a_file_that_was_cut_off_or_taken_away_is_made_again() {
    let made = Made::new();
    made.make(three_layers(None));
    let path = |n: usize| made.store().join(format!("layers.{n}.safetensors"));
    let good = fs::read(path(0)).unwrap();
    fs::write(path(0), &good[..good.len() - 1]).unwrap();
    fs::remove_file(path(1)).unwrap();
    let (_, progress) = made.write(three_layers(None), &|_, _| Ok(()));
    assert_eq!((progress.made(), progress.reused()), (2, 1));
    assert_eq!(fs::read(path(0)).unwrap(), good);
}

#[test]
fn wherever_it_is_killed_files_are_whole_or_absent_and_it_goes_on() {
    let jobs = || three_layers(Some(Scheme::Int8));
    let whole = Made::new();
    let expected = whole.make(jobs());
    let mut killed_at = 0;
    let mut redone = Vec::new();
    loop {
        let made = Made::new();
        let steps = AtomicUsize::new(0);
        let watch = |_: Step, _: &std::path::Path| {
            if steps.fetch_add(1, Ordering::SeqCst) < killed_at {
                Ok(())
            } else {
                Err(io::Error::other("killed"))
            }
        };
        let (records, _) = made.write(jobs(), &watch);
        if let Ok(records) = records {
            assert_eq!(records, expected);
            break;
        }
        for job in jobs() {
            let name = job.name;
            if let Ok(file) = fs::read(made.store().join(&name)) {
                assert!(
                    file == fs::read(whole.store().join(&name)).unwrap(),
                    "{name} is half"
                );
            }
        }
        let (records, progress) = made.write(jobs(), &|_, _| Ok(()));
        assert_eq!(records.unwrap(), expected);
        redone.push(progress.made());
        killed_at += 1;
    }
    // From nothing is finished to nearly everything is.
    assert_eq!((redone.first(), redone.last()), (Some(&3), Some(&1)));
    assert!(killed_at > 3 * 6, "{killed_at} steps");
}

#[test]
fn a_full_disk_is_an_error_with_its_errno_and_keeps_what_is_finished() {
    let made = Made::new();
    let watch = |step: Step, path: &std::path::Path| {
        if step == Step::Write && path.ends_with("layers.2.safetensors") {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        Ok(())
    };
    let (records, _) = made.write(three_layers(None), &watch);
    let Err(Error::Store(StoreError::Write { source, .. })) = records else {
        panic!("{records:?}");
    };
    assert_eq!(source.raw_os_error(), Some(libc::ENOSPC));
    let (_, progress) = made.write(three_layers(None), &|_, _| Ok(()));
    assert_eq!(progress.made() + progress.reused(), 3);
    assert!(progress.reused() >= 1);
}

#[test]
fn a_stopped_writer_says_so() {
    let made = Made::new();
    let progress = airllm_rs::store::progress::Progress::default();
    progress.stop();
    let sources = [made.home.path().join("source")];
    let stopped = airllm_rs::store::writer::write(
        &[made.store()],
        &sources,
        three_layers(None),
        crate::store::making::OPTIONS,
        &progress,
        &|_, _| Ok(()),
    );
    assert!(matches!(
        stopped,
        Err(Error::Store(StoreError::Interrupted))
    ));
}

#[test]
fn jobs_that_cannot_be_are_refused_with_the_tensor() {
    let made = Made::new();
    let refused = |tensor| {
        let (records, _) = made.write(vec![job("a", vec![tensor])], &|_, _| Ok(()));
        records.unwrap_err().to_string()
    };
    let scheme = Some(Scheme::Int8);
    assert_eq!(
        refused(tensor("x", 0, &[4, 100], scheme)),
        "tensor \"x\": rows of 100 are not made of blocks of 64 (8bit)"
    );
    assert_eq!(
        refused(tensor("x", 0, &[128], scheme)),
        "tensor \"x\": BF16 of shape [128] cannot be encoded"
    );
    assert_eq!(
        refused(tensor("x", 0, &[2, 8192], scheme)),
        "tensor \"x\": a row has 16384 bytes, more than the 8192 allowed"
    );
    let mut short = matrix("x", 0, None);
    short.source.nbytes -= 1;
    let nbytes = 2 * ROWS * COLS;
    let expected = format!(
        "tensor \"x\": the source has {} bytes, its dtype and shape make {nbytes}",
        nbytes - 1
    );
    assert_eq!(refused(short), expected);
}
