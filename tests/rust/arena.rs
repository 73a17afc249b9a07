//! The arena is aligned, zeroed, and gives back what it is told to.

use airllm_rs::arena::{Arena, HUGE_PAGE};

fn bytes(arena: &Arena) -> &mut [u8] {
    // SAFETY: each test looks at its own arena from one place at a time.
    unsafe { std::slice::from_raw_parts_mut(arena.as_ptr(), arena.nbytes()) }
}

#[test]
fn it_is_aligned_and_zeroed() {
    let arena = Arena::new(3 * HUGE_PAGE + 5).unwrap();
    assert_eq!(arena.as_ptr().align_offset(HUGE_PAGE), 0);
    assert_eq!(arena.nbytes(), 3 * HUGE_PAGE + 4096);
    assert!(bytes(&arena).iter().all(|&byte| byte == 0));
}

#[test]
fn discarded_pages_read_as_zeros_and_their_neighbours_stay() {
    let arena = Arena::new(4 * 4096).unwrap();
    bytes(&arena).fill(7);
    arena.discard(4095, 2 * 4096 + 2);
    let found: Vec<u8> = bytes(&arena).chunks(4096).map(|page| page[0]).collect();
    assert_eq!(found, [7, 0, 0, 7]);
    arena.discard(100, 200);
    assert_eq!(bytes(&arena)[150], 7);
}

#[test]
fn nothing_but_one_page_is_taken_for_nothing() {
    assert_eq!(Arena::new(0).unwrap().nbytes(), 4096);
}

#[test]
fn a_size_that_cannot_be_is_an_error() {
    assert!(Arena::new(usize::MAX).is_err());
    assert!(Arena::new(isize::MAX as usize).is_err());
}

#[cfg(target_os = "linux")]
#[test]
fn huge_pages_are_counted_where_the_kernel_gives_them() {
    let arena = Arena::new(8 * HUGE_PAGE).unwrap();
    assert_eq!(arena.huge_page_bytes(), 0);
    bytes(&arena).fill(1);
    let found = arena.huge_page_bytes();
    assert!(found <= 8 * HUGE_PAGE as u64);
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    if setting.is_ok_and(|setting| !setting.contains("[never]")) {
        assert!(found >= HUGE_PAGE as u64, "{found} bytes in huge pages");
    }
}
