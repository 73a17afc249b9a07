//! The parts of a unit arrive whole and end up aligned, however they lie in the files.

use proptest::prelude::*;

use airllm_rs::error::Error;
use airllm_rs::extent::{Extent, Part, SlotRead, UnitLayout};

fn part(file: u32, offset: u64, nbytes: u64, item_size: u32) -> Part {
    Part {
        extent: Extent {
            file,
            offset,
            nbytes,
        },
        item_size,
    }
}

// What the files of these tests hold.
fn byte(file: u32, offset: u64) -> u8 {
    let mixed = (offset ^ u64::from(file) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8
}

// Read and settle a slot; addresses in it are as if it began at a multiple of 4096.
fn filled(layout: &UnitLayout) -> Vec<u8> {
    let mut slot = vec![0xee; layout.nbytes()];
    for SlotRead {
        extent,
        slot_offset,
        ..
    } in layout.reads()
    {
        for at in 0..extent.nbytes {
            slot[slot_offset + at as usize] = byte(extent.file, extent.offset + at);
        }
    }
    // SAFETY: the slot has the layout's length and is this function's alone.
    unsafe { layout.settle(slot.as_mut_ptr()) };
    slot
}

fn check(parts: &[Part], alignment: usize) {
    let layout = UnitLayout::new(parts, alignment).unwrap();
    assert!(layout.nbytes().is_multiple_of(4096) && layout.nbytes().is_multiple_of(alignment));
    let mut slot_end = 0;
    let mut before: Option<Extent> = None;
    for read in layout.reads() {
        let SlotRead {
            extent,
            needed,
            slot_offset,
        } = *read;
        assert!(extent.offset.is_multiple_of(alignment as u64));
        assert!(extent.nbytes.is_multiple_of(alignment as u64));
        assert!(slot_offset.is_multiple_of(alignment));
        assert!(needed as u64 <= extent.nbytes && needed > 0);
        assert!(slot_offset >= slot_end, "reads overlap in the slot");
        slot_end = slot_offset + extent.nbytes as usize;
        if let Some(before) = before.filter(|before| before.file == extent.file) {
            assert!(
                before.end().unwrap() < extent.offset,
                "reads that touch are one"
            );
        }
        before = Some(extent);
    }
    assert!(slot_end <= layout.nbytes());

    let slot = filled(&layout);
    for (part, place) in parts.iter().zip(layout.parts()) {
        assert_eq!(place.nbytes as u64, part.extent.nbytes);
        assert!(place.slot_offset.is_multiple_of(part.item_size as usize));
        let found = &slot[place.slot_offset..place.slot_offset + place.nbytes];
        let Extent {
            file,
            offset,
            nbytes,
        } = part.extent;
        assert!(
            (offset..offset + nbytes)
                .map(|at| byte(file, at))
                .eq(found.iter().copied())
        );
        if part.extent.nbytes > 0 {
            let is_read = layout.reads().iter().any(|read| {
                let end = read.extent.offset + read.needed as u64;
                read.extent.file == file && read.extent.offset <= offset && offset + nbytes <= end
            });
            assert!(is_read, "all bytes of a part are needed");
        }
    }
}

#[test]
fn an_aligned_part_is_one_read_and_stays() {
    let layout = UnitLayout::new(&[part(0, 8192, 4096, 2)], 4096).unwrap();
    let read = SlotRead {
        extent: Extent {
            file: 0,
            offset: 8192,
            nbytes: 4096,
        },
        needed: 4096,
        slot_offset: 0,
    };
    assert_eq!(layout.reads(), [read]);
    assert_eq!((layout.nbytes(), layout.moved_nbytes()), (4096, 0));
    assert_eq!(layout.parts()[0].slot_offset, 0);
}

#[test]
fn neighbours_are_one_read_in_whatever_order_they_come() {
    let parts = [
        part(0, 10_000, 2_000, 2),
        part(1, 0, 10, 1),
        part(0, 5_000, 5_000, 2),
    ];
    let layout = UnitLayout::new(&parts, 4096).unwrap();
    let extents: Vec<_> = layout.reads().iter().map(|read| read.extent).collect();
    let whole = Extent {
        file: 0,
        offset: 4096,
        nbytes: 8192,
    };
    assert_eq!(
        extents,
        [
            whole,
            Extent {
                file: 1,
                offset: 0,
                nbytes: 4096
            }
        ]
    );
    assert_eq!(layout.reads()[0].needed, 12_000 - 4096);
    check(&parts, 4096);
}

#[test]
fn a_part_at_an_odd_offset_is_moved() {
    let parts = [part(0, 4097, 8192, 2)];
    let layout = UnitLayout::new(&parts, 512).unwrap();
    assert_eq!(layout.moved_nbytes(), 8192);
    check(&parts, 512);
}

#[test]
fn room_is_kept_for_a_move_at_the_end_of_a_slot() {
    // The part ends with the block: moved by one byte it would end outside.
    let parts = [part(0, 4095, 4097, 4)];
    let layout = UnitLayout::new(&parts, 4096).unwrap();
    assert_eq!(layout.nbytes(), 3 * 4096);
    check(&parts, 4096);
}

#[test]
fn the_same_part_twice_lies_at_one_place() {
    let parts = [part(0, 101, 50, 2), part(0, 101, 50, 2)];
    let layout = UnitLayout::new(&parts, 512).unwrap();
    assert_eq!(layout.parts()[0], layout.parts()[1]);
    check(&parts, 512);
}

#[test]
fn parts_that_share_bytes_and_cannot_both_be_aligned_are_an_error() {
    let parts = [part(0, 100, 50, 2), part(0, 101, 50, 2)];
    let result = UnitLayout::new(&parts, 512);
    assert!(matches!(
        result,
        Err(Error::PartsOverlap {
            file: 0,
            offset: 100
        })
    ));
}

#[test]
fn nothing_needs_no_slot() {
    for parts in [&[][..], &[part(0, 4099, 0, 8)]] {
        let layout = UnitLayout::new(parts, 4096).unwrap();
        assert_eq!((layout.nbytes(), layout.reads().len()), (0, 0));
        assert_eq!(layout.parts().len(), parts.len());
    }
}

#[test]
fn what_cannot_be_addressed_is_an_error() {
    for parts in [
        part(0, u64::MAX, 1, 1),
        part(0, u64::MAX - 10, 5, 1),
        part(0, 0, u64::MAX, 1),
    ] {
        let result = UnitLayout::new(&[parts], 4096);
        assert!(
            matches!(result, Err(Error::ExtentTooLarge { .. })),
            "{result:?}"
        );
    }
    for item_size in [0, 3, 8192] {
        let result = UnitLayout::new(&[part(0, 0, 8, item_size)], 1);
        assert!(matches!(result, Err(Error::ItemSize { .. })));
    }
}

prop_compose! {
    // Parts of two files without common bytes, in any order.
    fn parts()(
        lengths in prop::collection::vec((0..3_u64, 0..6_000_u64, 0..9_000_u64, 0..4_u32), 1..12),
    )(
        parts in Just({
            let mut ends = [0, 0];
            lengths.into_iter().map(|(file, gap, nbytes, bits)| {
                let file = (file / 2) as usize;
                let offset = ends[file] + if gap < 3_000 { gap % 3 } else { gap };
                ends[file] = offset + nbytes;
                part(file as u32, offset, nbytes, 1 << bits)
            }).collect::<Vec<_>>()
        }).prop_shuffle(),
    ) -> Vec<Part> {
        parts
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn parts_arrive_whole_and_aligned(parts in parts(), alignment in 0..14_u32) {
        check(&parts, 1 << alignment);
    }
}
