//! Gathered rows are the table's rows, read once and not left in the page cache.

use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use airllm_rs::error::Error;
use airllm_rs::io::gather::gather_rows;

use crate::io::place::{content, directory, write};

const OFFSET: usize = 1003;

struct Table {
    path: PathBuf,
    bytes: Vec<u8>,
    _directory: TempDir,
}

impl Table {
    fn new(nbytes: usize) -> Self {
        let directory = directory();
        let bytes = content(5, nbytes);
        let path = write(directory.path(), std::slice::from_ref(&bytes)).remove(0);
        Self {
            path,
            bytes,
            _directory: directory,
        }
    }

    fn gather(&self, row_nbytes: usize, rows: &[u64]) -> Result<(u64, Vec<u8>), Error> {
        let mut out = vec![0xee; rows.len() * row_nbytes];
        let read = gather_rows(&self.path, OFFSET as u64, row_nbytes, rows, &mut out)?;
        Ok((read, out))
    }

    fn expected(&self, row_nbytes: usize, rows: &[u64]) -> Vec<u8> {
        rows.iter()
            .flat_map(|&row| {
                let start = OFFSET + row as usize * row_nbytes;
                self.bytes[start..start + row_nbytes].iter().copied()
            })
            .collect()
    }
}

#[test]
fn random_rows_are_the_rows_of_the_table() {
    let nbytes = 3_000_000;
    let table = Table::new(nbytes);
    let rows = (
        prop::sample::select(vec![1_usize, 7, 512, 1536, 4096, 70_000]),
        prop::collection::vec(any::<u64>(), 0..60),
    );
    proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(40))
        .run(&rows, |(row_nbytes, rows)| {
            let count = ((nbytes - OFFSET) / row_nbytes) as u64;
            let rows: Vec<_> = rows.into_iter().map(|row| row % count).collect();
            let (_, out) = table.gather(row_nbytes, &rows).unwrap();
            prop_assert!(out == table.expected(row_nbytes, &rows));
            Ok(())
        })
        .unwrap();
}

#[test]
fn rows_that_are_wanted_again_and_their_neighbours_cost_no_read() {
    let table = Table::new(1 << 20);
    let (read, out) = table.gather(1024, &[900, 5, 900, 6, 5, 900]).unwrap();
    assert_eq!(out, table.expected(1024, &[900, 5, 900, 6, 5, 900]));
    // Two runs, each widened to blocks.
    assert!(read <= 2 * 3 * 4096, "{read} bytes");
}

#[test]
fn most_of_a_table_is_read_in_one_pass() {
    let table = Table::new(20 << 20);
    let row_nbytes = 4096;
    let count = ((table.bytes.len() - OFFSET) / row_nbytes) as u64;
    let rows: Vec<_> = (0..count).rev().filter(|row| row % 3 > 0).collect();
    let (read, out) = table.gather(row_nbytes, &rows).unwrap();
    assert!(out == table.expected(row_nbytes, &rows));
    assert!(
        read <= (table.bytes.len() + 8 * 4096) as u64,
        "{read} bytes"
    );
}

#[test]
fn the_last_row_may_end_with_the_file() {
    let table = Table::new(OFFSET + 3 * 777);
    assert_eq!(
        table.gather(777, &[2]).unwrap().1,
        table.expected(777, &[2])
    );
}

#[test]
fn nothing_is_read_for_nothing() {
    let table = Table::new(4096);
    assert_eq!(table.gather(16, &[]).unwrap(), (0, Vec::new()));
    assert_eq!(table.gather(0, &[9]).unwrap(), (0, Vec::new()));
}

#[test]
fn rows_and_sizes_that_cannot_be_are_errors() {
    let table = Table::new(OFFSET + 100);
    assert!(matches!(
        table.gather(10, &[3, 10]),
        Err(Error::NoSuchRow {
            row: 10,
            rows: 10,
            ..
        })
    ));
    assert!(matches!(
        table.gather(10, &[u64::MAX]),
        Err(Error::NoSuchRow { .. })
    ));
    let result = gather_rows(&table.path, 0, 10, &[1], &mut [0; 11]);
    assert!(matches!(
        result,
        Err(Error::OutputSize {
            rows: 1,
            row_nbytes: 10,
            found: 11
        })
    ));
    let absent = table.path.with_extension("absent");
    assert!(matches!(
        gather_rows(&absent, 0, 1, &[1], &mut [0]),
        Err(Error::Open { .. })
    ));
}

#[cfg(target_os = "linux")]
#[test]
fn nothing_is_left_in_the_page_cache() {
    use crate::io::place::cached_pages;

    let table = Table::new(4 << 20);
    let before = cached_pages(&table.path);
    let rows: Vec<_> = (0..100).map(|row| row * 37).collect();
    table.gather(1000, &rows).unwrap();
    assert!(cached_pages(&table.path) <= before);
}
