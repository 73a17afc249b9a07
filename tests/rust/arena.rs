//! The arena is aligned, zeroed, and gives back what it is told to.

use airllm_rs::arena::{Arena, HUGE_PAGE, Pages};

fn fill(arena: &Arena, byte: u8) {
    // SAFETY: the memory is the arena's, and only this test looks at it.
    unsafe { arena.as_ptr().write_bytes(byte, arena.nbytes()) };
}

fn bytes(arena: &Arena) -> &[u8] {
    // SAFETY: as above; nobody writes while the test reads.
    unsafe { std::slice::from_raw_parts(arena.as_ptr(), arena.nbytes()) }
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
    fill(&arena, 7);
    arena.discard(4095, 2 * 4096 + 2);
    let found: Vec<u8> = bytes(&arena).chunks(4096).map(|page| page[0]).collect();
    assert_eq!(found, [7, 0, 0, 7]);
    arena.discard(100, 200);
    assert_eq!(bytes(&arena)[150], 7);
}

#[test]
#[should_panic(expected = "cut from this arena")]
fn a_range_beyond_the_end_is_a_mistake() {
    Arena::new(4096).unwrap().discard(0, 4097);
}

#[test]
fn nothing_takes_one_page() {
    assert_eq!(Arena::new(0).unwrap().nbytes(), 4096);
}

#[test]
fn a_size_that_cannot_be_is_an_error() {
    assert!(Arena::new(usize::MAX).is_err());
    assert!(Arena::new(isize::MAX as usize).is_err());
}

#[test]
fn small_pages_are_not_huge() {
    let arena = Arena::with_pages(4 * HUGE_PAGE, Pages::Small).unwrap();
    fill(&arena, 1);
    assert_eq!(arena.usage().huge, 0);
}

#[cfg(target_os = "linux")]
#[test]
fn huge_pages_are_counted_where_the_kernel_gives_them() {
    let arena = Arena::new(8 * HUGE_PAGE).unwrap();
    assert_eq!(arena.usage().huge, 0);
    fill(&arena, 1);
    let found = arena.usage().huge;
    assert!(found <= 8 * HUGE_PAGE as u64);
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    if setting.is_ok_and(|setting| !setting.contains("[never]")) {
        assert!(found >= HUGE_PAGE as u64, "{found} bytes in huge pages");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn locked_pages_are_counted_and_can_be_discarded() {
    let arena = Arena::with_pages(64 * 4096, Pages::Small).unwrap();
    if let Err(error) = arena.lock() {
        // The limit of whoever runs the tests.
        let said = "262144 bytes of weights are not locked in memory: ";
        assert!(error.to_string().starts_with(said), "{error}");
        assert_eq!(arena.usage().locked, 0);
        return;
    }
    assert_eq!(arena.usage().locked, 0, "locking touches nothing");
    fill(&arena, 1);
    assert_eq!(arena.usage().locked, 64 * 4096);
    arena.discard(0, 16 * 4096);
    assert_eq!(bytes(&arena)[0], 0);
    assert_eq!(arena.usage().locked, 48 * 4096);
}

#[test]
#[cfg(target_os = "linux")]
fn populating_takes_memory_and_changes_nothing() {
    let arena = Arena::new(4 * HUGE_PAGE).unwrap();
    // SAFETY: the first byte of an arena that nobody else looks at.
    unsafe { arena.as_ptr().write(7) };
    assert!(arena.populate(0, 2 * HUGE_PAGE));
    let taken = arena.usage().resident;
    assert!(taken >= 2 * HUGE_PAGE as u64, "{taken} bytes");
    // SAFETY: as above.
    assert_eq!(unsafe { arena.as_ptr().read() }, 7);
    arena.discard(0, arena.nbytes());
    assert_eq!(arena.usage().resident, 0);
}
