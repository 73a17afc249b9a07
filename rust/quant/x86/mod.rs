//! What kernels for x86-64 share: loads, stores and conversions of whole registers.

pub(crate) mod avx2;
pub(crate) mod avx512;
pub(crate) mod lone;

/// Cover a strip of a product with tiles of so many rows of the weight times so many of the
/// activations: widths in descending order down to 1, with the rows that a tile of that width has.
///
/// Calls `tile::<ROWS, WIDTH>(kernel, strip, row, m)`, which returns the sums, and writes them.
macro_rules! cover {
    ($tile:ident($kernel:expr, $strip:expr), $sums:expr, [$($rows:literal x $width:literal),*]) => {{
        let (kernel, strip, sums) = ($kernel, $strip, $sums);
        let x_rows = sums.len() / strip.rows.max(1);
        let mut m = 0;
        $(
            while x_rows - m >= $width {
                let mut row = 0;
                while strip.rows.saturating_sub(row) >= $rows {
                    let found = $tile::<$rows, $width>(kernel, strip, row, m);
                    $crate::quant::x86::put(sums, x_rows, (row, m), &found);
                    row += $rows;
                }
                while row < strip.rows {
                    let found = $tile::<1, $width>(kernel, strip, row, m);
                    $crate::quant::x86::put(sums, x_rows, (row, m), &found);
                    row += 1;
                }
                m += $width;
            }
        )*
    }};
}
pub(crate) use cover;

/// Walk over the groups of a tile: `ROWS` rows of a strip from `row` on, the last group a copy.
///
/// Runs the body with the bytes of each group, and the numbers of row and group. Not a function with a closure: those are not always inlined, as they have to be.
macro_rules! walk {
    (
        $strip:ident[$row:ident..$rows:ident], $x:ident,
        |$q:ident, $index:ident, $group:ident| $body:block
    ) => {
        let whole = $strip.q[$row].len();
        let mut q = [&$strip.q[$row][..0]; $rows];
        for (index, q) in q.iter_mut().enumerate() {
            *q = &$strip.q[$row + index][..whole];
        }
        {
            let mut whole_x = $x;
            for x in &mut whole_x {
                *x = &x[..whole];
            }
            let $x = whole_x;
            // at the end of rows, those of the next tile follow
            let last = whole.saturating_sub(AHEAD / $strip.group_bytes());
            let next_tile = ($rows - 1) * $strip.stride;
            for $group in 0..whole {
                let ahead = AHEAD + if $group < last { 0 } else { next_tile };
                $crate::quant::x86::unrolled!($rows, |$index| {
                    let $q = &q[$index][$group];
                    prefetch($q, ahead);
                    $body
                });
            }
        }
        if let Some(tails) = &$strip.tails {
            let $group = whole;
            $crate::quant::x86::unrolled!($rows, |$index| {
                let $q = &tails[$row + $index];
                $body
            });
        }
    };
}
pub(crate) use walk;

/// Run the body for each index below `rows`, up to 8. A loop would keep what is indexed in memory.
macro_rules! unrolled {
    ($rows:ident, |$index:ident| $body:block) => {
        $crate::quant::x86::unrolled!($rows, |$index| $body, [0, 1, 2, 3, 4, 5, 6, 7])
    };
    ($rows:ident, |$index:ident| $body:block, [$($number:literal),*]) => {{
        $(
            if $number < $rows {
                let $index = $number;
                $body
            }
        )*
    }};
}
pub(crate) use unrolled;

/// Write the sums of a tile that begins at `(row, m)`.
pub(crate) fn put<const ROWS: usize, const WIDTH: usize>(
    sums: &mut [f32],
    x_rows: usize,
    (row, m): (usize, usize),
    found: &[[f32; WIDTH]; ROWS],
) {
    for (sums, found) in sums[row * x_rows..].chunks_mut(x_rows).zip(found) {
        sums[m..m + WIDTH].copy_from_slice(found);
    }
}
