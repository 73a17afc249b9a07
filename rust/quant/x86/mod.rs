//! What kernels for x86-64 share: loads, stores and conversions of whole registers.

pub(crate) mod avx2;
pub(crate) mod avx512;

/// Cover a strip of a product with tiles of so many rows of the weight times so many of the
/// activations: widths in descending order down to 1, with the rows that a tile of that width has.
///
/// Calls `tile::<ROWS, WIDTH>(kernel, strip, row, m)`, which returns the sums, and writes them.
macro_rules! cover {
    ($tile:ident($kernel:expr, $strip:expr), $sums:expr, [$($rows:literal x $width:literal),*]) => {{
        let (kernel, strip, sums) = ($kernel, $strip, $sums);
        let x_rows = sums.len() / strip.rows;
        let mut m = 0;
        $(
            while m + $width <= x_rows {
                let mut row = 0;
                while row + $rows <= strip.rows {
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
