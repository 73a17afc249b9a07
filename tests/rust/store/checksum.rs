//! Checksums of pieces are those of the file.

use proptest::prelude::*;

use airllm_rs::store::checksum::{CHUNK_NBYTES, Pieces, chunks};

// One bit at a time, from the polynomial: no code of ours nor of the library.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 * (crc & 1))
        })
    })
}

fn bytes(nbytes: usize) -> Vec<u8> {
    (0..nbytes).map(|n| (n * 31 + n / 977) as u8).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn pieces_in_any_order_have_the_sum_of_the_whole(
        cuts in prop::collection::vec(0_usize..5000, 0..12),
        rotation in 0_usize..12,
    ) {
        let file = bytes(5000);
        let mut cuts = cuts;
        cuts.extend([0, 5000]);
        cuts.sort_unstable();
        cuts.dedup();
        let mut ranges: Vec<_> = cuts.windows(2).map(|pair| pair[0]..pair[1]).collect();
        let middle = rotation % ranges.len();
        ranges.rotate_left(middle);
        let mut pieces = Pieces::default();
        for range in ranges {
            pieces.add(range.start as u64, &file[range]);
        }
        prop_assert_eq!(pieces.chunks(5000), Some(vec![crc32c(&file)]));
    }
}

#[test]
fn a_piece_over_the_border_of_a_chunk_counts_in_both() {
    let border = CHUNK_NBYTES as usize;
    let file = bytes(border + 100);
    let mut pieces = Pieces::default();
    pieces.add(border as u64 - 10, &file[border - 10..]);
    pieces.add(0, &file[..border - 10]);
    let sums = pieces.chunks(file.len() as u64).unwrap();
    assert_eq!(sums, [crc32c(&file[..border]), crc32c(&file[border..])]);
    assert_eq!(chunks(file.len() as u64), 2);
}

#[test]
fn a_file_with_a_hole_or_bytes_noted_twice_has_no_sums() {
    let mut hole = Pieces::default();
    hole.add(0, &[1; 4]);
    hole.add(5, &[1; 4]);
    assert_eq!(hole.chunks(9), None);
    let mut twice = Pieces::default();
    twice.add(0, &[1; 4]);
    twice.add(3, &[1; 4]);
    assert_eq!(twice.chunks(7), None);
    let mut short = Pieces::default();
    short.add(0, &[1; 4]);
    assert_eq!(short.chunks(5), None);
}
