//! The loop that all SIMD dot products share, with other registers in each.

/// Define `dot_rows`, over a tile of some rows of weights and of activations.
///
/// The module has `load`, `multiply_add`, `load_lanes` and `store_lanes` for its registers.
/// `shapes` are (weights, activations) rows that fit in the registers, large to small for each
/// number of activations. Rows of up to `alone` columns, beside a single row of activations, are taken
/// one by one.
macro_rules! kernels {
    (
        features: $features:literal,
        zero: $zero:path,
        at_a_time: $at_a_time:literal,
        x_nbytes: $x_nbytes:literal,
        load_x: $load_x:path,
        alone: $alone:literal,
        shapes: [$(($rows:literal, $xs:literal)),+ $(,)?],
    ) => {
        /// Add to `lanes`, (w.rows, x.rows), the products of the first `cols` columns.
        ///
        /// `ahead` bytes ahead, weights are fetched into the cache; not where that is zero.
        ///
        /// # Safety
        /// `w` and `x` have these rows of at least `cols` columns, a multiple of 32; `w` of dtype
        /// `W`. `lanes` has an item for each pair.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn dot_rows<const W: u8>(
            w: &Rows<'_>,
            x: &Rows<'_>,
            cols: usize,
            lanes: &mut [Lanes],
            ahead: usize,
        ) {
            const MOST: usize = {
                let mut most = 0;
                $(if $xs > most { most = $xs; })+
                most
            };
            let mut row = 0;
            while row < w.rows {
                let is_alone = x.rows == 1 && cols <= $alone;
                let mut taken = 1;
                let mut first = 0;
                while first < x.rows {
                    let xs = (x.rows - first).min(MOST);
                    // the rows that the first group takes hold for all of them
                    if first == 0 && !is_alone {
                        $(if taken == 1 && xs == $xs && w.rows - row >= $rows { taken = $rows; })+
                    }
                    let at = Place {
                        w: w.bytes.as_ptr().wrapping_add(row * w.stride),
                        w_stride: w.stride,
                        x: x.bytes.as_ptr().wrapping_add(first * x.stride),
                        x_stride: x.stride,
                        lanes: lanes.as_mut_ptr().wrapping_add(row * x.rows + first),
                        lanes_stride: x.rows,
                        ahead: if first == 0 { ahead } else { 0 },
                    };
                    match (taken, xs) {
                        $(
                            // SAFETY: rows and columns are within those that the caller promises.
                            ($rows, $xs) => unsafe { tile::<W, $rows, $xs>(&at, cols) },
                        )+
                        // a last, smaller group of activations, row by row or a few at once
                        _ => {
                            for offset in 0..taken {
                                let at = Place {
                                    w: at.w.wrapping_add(offset * at.w_stride),
                                    lanes: at.lanes.wrapping_add(offset * at.lanes_stride),
                                    ..at
                                };
                                match (1, xs) {
                                    $(
                                        // SAFETY: as above.
                                        ($rows, $xs) => unsafe { tile::<W, $rows, $xs>(&at, cols) },
                                    )+
                                    _ => unreachable!("there is a shape of one row for each"),
                                }
                            }
                        }
                    }
                    first += xs;
                }
                row += taken;
            }
        }

        #[derive(Clone, Copy)]
        struct Place {
            w: *const u8,
            w_stride: usize,
            x: *const u8,
            x_stride: usize,
            lanes: *mut Lanes,
            lanes_stride: usize,
            ahead: usize,
        }

        // Registers hold the sums of R x M pairs; each sum is one chain, whatever R and M are.
        #[target_feature(enable = $features)]
        unsafe fn tile<const W: u8, const R: usize, const M: usize>(at: &Place, cols: usize) {
            let mut sums = [[$zero(); M]; R];
            for r in 0..R {
                for m in 0..M {
                    let from = at.lanes.wrapping_add(r * at.lanes_stride + m);
                    // SAFETY: there are lanes for each pair.
                    sums[r][m] = unsafe { load_lanes(from) };
                }
            }
            for col in (0..cols).step_by(32) {
                for r in 0..if at.ahead > 0 { R } else { 0 } {
                    let from = at.w.wrapping_add(r * at.w_stride + col * const { nbytes(W) } + at.ahead);
                    for line in 0..const { nbytes(W) } / 2 {
                        _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(64 * line).cast());
                    }
                }
                for part in 0..32 / $at_a_time {
                    let col = col + part * $at_a_time;
                    for r in 0..R {
                        let from = at.w.wrapping_add(r * at.w_stride + col * const { nbytes(W) });
                        // SAFETY: the columns are within `cols`.
                        let weights = unsafe { load::<W>(from) };
                        for m in 0..M {
                            let from = at.x.wrapping_add(m * at.x_stride + col * $x_nbytes);
                            // SAFETY: as above.
                            let x = unsafe { $load_x(from) };
                            sums[r][m] = multiply_add(weights, x, sums[r][m]);
                        }
                    }
                }
            }
            for r in 0..R {
                for m in 0..M {
                    let to = at.lanes.wrapping_add(r * at.lanes_stride + m);
                    // SAFETY: there are lanes for each pair.
                    unsafe { store_lanes(to, sums[r][m]) };
                }
            }
        }
    };
}
pub(crate) use kernels;
