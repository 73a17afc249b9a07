//! Attention against f64, and the same whoever is beside a token.

use airllm_rs::error::Error;
use airllm_rs::quant::attention::{Attention, MOST_TOKENS, Mask, Strides, Vectors, attend};
use airllm_rs::quant::float::Float;
use airllm_rs::quant::tier::Tier;

use crate::quant::numbers::{FLOATS, Numbers, tiers, wide};

#[derive(Clone, Copy, Debug)]
struct Shape {
    batch: usize,
    heads: usize,
    groups: usize,
    tokens: usize,
    length: usize,
    capacity: usize,
    dim: usize,
    value_dim: usize,
}

const PLAIN: Shape = Shape {
    batch: 1,
    heads: 6,
    groups: 2,
    tokens: 1,
    length: 200,
    capacity: 256,
    dim: 64,
    value_dim: 64,
};

const SHAPES: [Shape; 6] = [
    PLAIN,
    Shape {
        batch: 2,
        tokens: 5,
        ..PLAIN
    },
    Shape {
        tokens: 7,
        length: 1030,
        capacity: 1100,
        ..PLAIN
    },
    Shape {
        heads: 34,
        tokens: 1,
        length: 600,
        capacity: 600,
        dim: 128,
        value_dim: 128,
        ..PLAIN
    },
    Shape {
        dim: 80,
        value_dim: 40,
        tokens: 3,
        length: 3,
        ..PLAIN
    },
    Shape {
        heads: 3,
        groups: 3,
        length: 1,
        dim: 7,
        value_dim: 5,
        ..PLAIN
    },
];

struct Case {
    shape: Shape,
    float: Float,
    q: Vec<u8>,
    k: Vec<u8>,
    v: Vec<u8>,
    mask: Option<Vec<u8>>,
    sinks: Option<Vec<u8>>,
    softcap: Option<f32>,
    window: Option<usize>,
    origins: Vec<isize>,
}

impl Case {
    fn new(numbers: &mut Numbers, shape: Shape, float: Float) -> Self {
        let Shape {
            batch,
            heads,
            groups,
            tokens,
            length,
            capacity,
            dim,
            value_dim,
        } = shape;
        let mut cache = |dim: usize| {
            let mut bytes = numbers.bytes(float, batch * groups * capacity * dim);
            // what lies beyond the length must not be looked at
            for row in bytes.chunks_exact_mut(capacity * dim * float.nbytes()) {
                row[length * dim * float.nbytes()..].fill(0xff);
            }
            bytes
        };
        let (k, v) = (cache(dim), cache(value_dim));
        Self {
            shape,
            float,
            q: numbers.bytes(float, batch * heads * tokens * dim),
            k,
            v,
            mask: None,
            sinks: None,
            softcap: None,
            window: None,
            origins: Vec::new(),
        }
    }

    fn cache(&self, dim: usize) -> Strides {
        Strides {
            batch: self.shape.groups * self.shape.capacity * dim,
            head: self.shape.capacity * dim,
            token: dim,
        }
    }

    /// Results of the tokens from `first` on, as if no others were new but `count` of them.
    fn some(&self, tier: Tier, batch: Option<usize>, first: usize, count: usize) -> Vec<u8> {
        self.without(tier, batch, (first, count), 0)
    }

    /// The same, from keys without the first `gone`.
    fn without(
        &self,
        tier: Tier,
        batch: Option<usize>,
        (first, count): (usize, usize),
        gone: usize,
    ) -> Vec<u8> {
        let Shape {
            heads,
            tokens,
            dim,
            value_dim,
            length,
            ..
        } = self.shape;
        let size = self.float.nbytes();
        let (from, batches) = batch.map_or((0, self.shape.batch), |batch| (batch, 1));
        let (keys, values) = (self.cache(dim), self.cache(value_dim));
        let q = Strides {
            batch: heads * tokens * dim,
            head: tokens * dim,
            token: dim,
        };
        // results by sequence, token, head
        let out_strides = Strides {
            batch: count * heads * value_dim,
            head: value_dim,
            token: heads * value_dim,
        };
        let mut out = vec![0x55; batches * count * heads * value_dim * size];
        let of_all = vec![0; self.shape.batch];
        let origins = if self.origins.is_empty() {
            &of_all
        } else {
            &self.origins
        };
        let origins: Vec<_> = origins[from..from + batches]
            .iter()
            .map(|origin| origin - isize::try_from(gone).unwrap())
            .collect();
        let call = Attention {
            float: self.float,
            batch: batches,
            heads,
            groups: self.shape.groups,
            tokens: count,
            length: length - tokens + first + count - gone,
            dim,
            value_dim,
            q: Vectors {
                bytes: &self.q[(from * q.batch + first * dim) * size..],
                strides: q,
            },
            k: Vectors {
                bytes: &self.k[(from * keys.batch + gone * dim) * size..],
                strides: keys,
            },
            v: Vectors {
                bytes: &self.v[(from * values.batch + gone * value_dim) * size..],
                strides: values,
            },
            scale: 1.0 / (dim as f32).sqrt(),
            origins: &origins,
            window: self.window,
            softcap: self.softcap,
            sinks: self.sinks.as_deref(),
            mask: self.mask.as_deref().map(|mask| Mask {
                bytes: &mask[((from * tokens + first) * length + gone) * 4..],
                batch_stride: tokens * length,
                token_stride: length,
            }),
        };
        attend(tier, &call, &mut out, out_strides).unwrap();
        out
    }

    fn all(&self, tier: Tier) -> Vec<u8> {
        self.some(tier, None, 0, self.shape.tokens)
    }

    /// The same in f64.
    fn expected(&self) -> Vec<f64> {
        let Shape {
            batch,
            heads,
            groups,
            tokens,
            length,
            dim,
            value_dim,
            ..
        } = self.shape;
        let (q, k, v) = (
            wide(self.float, &self.q),
            wide(self.float, &self.k),
            wide(self.float, &self.v),
        );
        let mask = self.mask.as_deref().map(|mask| wide(Float::F32, mask));
        let (keys, values) = (self.cache(dim), self.cache(value_dim));
        let mut out = Vec::new();
        for b in 0..batch {
            for t in 0..tokens {
                for h in 0..heads {
                    let g = h / (heads / groups);
                    let q = &q[((b * heads + h) * tokens + t) * dim..][..dim];
                    let last = length - tokens + t;
                    let origin = self.origins.get(b).map_or(0, |&origin| origin as usize);
                    let first = (last + 1).saturating_sub(self.window.unwrap_or(length));
                    let first = first.max(origin);
                    let mut scores = Vec::new();
                    for s in first..=last {
                        let k = &k[b * keys.batch + g * keys.head + s * dim..][..dim];
                        let dot: f64 = q.iter().zip(k).map(|(q, k)| q * k).sum();
                        let mut score = dot / (dim as f64).sqrt();
                        if let Some(cap) = self.softcap.map(f64::from) {
                            score = cap * (score / cap).tanh();
                        }
                        if let Some(mask) = &mask {
                            score += mask[(b * tokens + t) * length + s];
                        }
                        scores.push(score);
                    }
                    let sink = self.sinks.as_deref();
                    let sink = sink.map(|sinks| f64::from(Float::F32.load(sinks, h)));
                    let greatest = scores.iter().copied().chain(sink).fold(-1e300, f64::max);
                    let mut total = sink.map_or(0.0, |sink| (sink - greatest).exp());
                    let mut sums = vec![0.0; value_dim];
                    for (s, score) in (first..).zip(scores) {
                        let weight = (score - greatest).exp();
                        total += weight;
                        let v = &v[b * values.batch + g * values.head + s * value_dim..];
                        for (sum, v) in sums.iter_mut().zip(v) {
                            *sum += weight * v;
                        }
                    }
                    let is_seen = total > 0.0;
                    out.extend(
                        sums.into_iter()
                            .map(|sum| if is_seen { sum / total } else { 0.0 }),
                    );
                }
            }
        }
        out
    }
}

/// The plain call, and those with each addition.
fn cases(numbers: &mut Numbers, shape: Shape, float: Float) -> Vec<Case> {
    let mut cases: Vec<_> = (0..5).map(|_| Case::new(numbers, shape, float)).collect();
    cases[1].softcap = Some(0.5);
    cases[2].sinks = Some(numbers.bytes(Float::F32, shape.heads));
    let mut mask = numbers.bytes(Float::F32, shape.batch * shape.tokens * shape.length);
    for number in mask.chunks_exact_mut(4).step_by(3).skip(1) {
        number.copy_from_slice(&f32::NEG_INFINITY.to_le_bytes());
    }
    cases[3].mask = Some(mask);
    cases[3].softcap = Some(2.0);
    cases[4].window = Some(90);
    cases
}

#[test]
fn results_are_near_those_of_f64() {
    let mut numbers = Numbers::new(11);
    for shape in SHAPES {
        for float in FLOATS {
            let allowed = match float {
                Float::F32 => 2e-6,
                Float::F16 => 5e-4,
                Float::Bf16 => 4e-3,
            };
            for (index, case) in cases(&mut numbers, shape, float).iter().enumerate() {
                let expected = case.expected();
                for tier in tiers() {
                    let found = wide(float, &case.all(tier));
                    assert_eq!(found.len(), expected.len());
                    for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                        assert!(
                            (found - expected).abs() <= allowed * (0.3 + expected.abs()),
                            "{tier:?} {float:?} {shape:?} case {index} at {at}: {found} in place of {expected}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_token_does_not_see_those_beside_it() {
    let mut numbers = Numbers::new(12);
    for (tokens, length) in [(9, 700), (MOST_TOKENS, 530), (3, 1025), (20, 20)] {
        let shape = Shape {
            batch: 2,
            tokens,
            length,
            capacity: 1200,
            ..PLAIN
        };
        for float in FLOATS {
            for case in cases(&mut numbers, shape, float) {
                let row = shape.heads * shape.value_dim * float.nbytes();
                for tier in tiers() {
                    let all = case.all(tier);
                    for batch in 0..2 {
                        for (first, count) in [(0, 1), (1, 2), (tokens - 1, 1), (0, tokens)] {
                            let found = case.some(tier, Some(batch), first, count);
                            let at = (batch * tokens + first) * row;
                            assert!(
                                found == all[at..at + count * row],
                                "{tier:?} {float:?} {shape:?}: {count} from {first}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn keys_before_those_seen_do_not_change_results() {
    let mut numbers = Numbers::new(15);
    for (tokens, length) in [(1, 700), (4, 1030), (20, 520)] {
        let shape = Shape {
            batch: 2,
            tokens,
            length,
            capacity: 1200,
            ..PLAIN
        };
        for float in FLOATS {
            for mut case in cases(&mut numbers, shape, float) {
                for tier in tiers() {
                    // padding: the same as without it
                    case.origins = vec![37, 0];
                    let padded = case.all(tier);
                    case.origins.clear();
                    let row = tokens * shape.heads * shape.value_dim * float.nbytes();
                    assert!(padded[row..] == case.some(tier, Some(1), 0, tokens));
                    // origin 37 without the first 37 keys is origin 0
                    case.origins = vec![37, 0];
                    let alone = case.without(tier, Some(0), (0, tokens), 37);
                    case.origins.clear();
                    assert!(padded[..row] == alone, "{tier:?} {float:?} {shape:?}");
                    // a window: the same once keys before it are gone
                    if case.window.is_some() {
                        let all = case.all(tier);
                        for gone in [1, 17, length - tokens - 95] {
                            let found = case.without(tier, None, (0, tokens), gone);
                            assert!(found == all, "{tier:?} {float:?} {shape:?} {gone}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn what_sees_nothing_is_zero() {
    let mut case = Case::new(&mut Numbers::new(13), PLAIN, Float::F32);
    case.mask = Some(f32::NEG_INFINITY.to_le_bytes().repeat(PLAIN.length));
    for tier in tiers() {
        assert!(case.all(tier).into_iter().all(|byte| byte == 0), "{tier:?}");
    }
}

#[test]
fn a_value_that_is_no_number_hides_from_tokens_before_it() {
    let shape = Shape { tokens: 4, ..PLAIN };
    let mut case = Case::new(&mut Numbers::new(14), shape, Float::F32);
    let last = (shape.length - 1) * shape.dim * 4;
    for group in 0..shape.groups {
        let at = group * shape.capacity * shape.dim * 4 + last;
        case.v[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    }
    for tier in tiers() {
        let found = wide(Float::F32, &case.all(tier));
        let row = shape.heads * shape.value_dim;
        assert!(
            found[..3 * row].iter().all(|number| number.is_finite()),
            "{tier:?}"
        );
        assert!(found[3 * row].is_nan(), "{tier:?}");
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let case = Case::new(&mut Numbers::new(15), PLAIN, Float::F32);
    let strides = case.cache(64);
    let vectors = |bytes, strides| Vectors { bytes, strides };
    let call = Attention {
        float: Float::F32,
        batch: 1,
        heads: 6,
        groups: 2,
        tokens: 1,
        length: 200,
        dim: 64,
        value_dim: 64,
        q: vectors(
            &case.q,
            Strides {
                batch: 0,
                head: 64,
                token: 64,
            },
        ),
        k: vectors(&case.k, strides),
        v: vectors(&case.v, strides),
        scale: 1.0,
        origins: &[],
        window: None,
        softcap: None,
        sinks: None,
        mask: None,
    };
    let out_strides = Strides {
        batch: 0,
        head: 64,
        token: 384,
    };
    let refused = |call: Attention<'_>, out: usize, strides| {
        attend(Tier::Scalar, &call, &mut vec![0; out], strides).is_err()
    };
    let full = 6 * 64 * 4;
    assert!(!refused(call, full, out_strides));
    assert!(refused(call, full - 1, out_strides));
    assert!(refused(
        call,
        full,
        Strides {
            head: 63,
            ..out_strides
        }
    ));
    assert!(refused(Attention { groups: 4, ..call }, full, out_strides));
    assert!(refused(Attention { groups: 0, ..call }, full, out_strides));
    assert!(refused(Attention { length: 0, ..call }, full, out_strides));
    assert!(refused(
        Attention {
            length: 500,
            ..call
        },
        full,
        out_strides
    ));
    assert!(refused(
        Attention {
            window: Some(0),
            ..call
        },
        full,
        out_strides
    ));
    assert!(refused(
        Attention {
            sinks: Some(&[0; 23]),
            ..call
        },
        full,
        out_strides
    ));
    let mask = Mask {
        bytes: &[0; 796],
        batch_stride: 0,
        token_stride: 200,
    };
    assert!(refused(
        Attention {
            mask: Some(mask),
            ..call
        },
        full,
        out_strides
    ));
    let many = Attention {
        tokens: MOST_TOKENS + 1,
        ..call
    };
    assert!(refused(many, 33 * full, out_strides));
}

#[test]
fn sequences_that_begin_far_apart_are_what_they_are_alone() {
    let shape = Shape {
        batch: 3,
        tokens: 4,
        length: 1030,
        capacity: 1100,
        ..PLAIN
    };
    let mut case = Case::new(&mut Numbers::new(16), shape, Float::Bf16);
    case.origins = vec![-(1 << 40), 0, 600];
    let row = shape.tokens * shape.heads * shape.value_dim * 2;
    for tier in tiers() {
        let all = case.all(tier);
        for (batch, found) in all.chunks_exact(row).enumerate() {
            assert!(found == case.some(tier, Some(batch), 0, shape.tokens));
        }
    }
}

/// One token of one head with numbers of one item.
fn small(length: usize) -> Attention<'static> {
    let one = Vectors {
        bytes: &[0; 4],
        strides: Strides::default(),
    };
    Attention {
        float: Float::F32,
        batch: 1,
        heads: 1,
        groups: 1,
        tokens: 1,
        length,
        dim: 1,
        value_dim: 1,
        q: one,
        k: one,
        v: one,
        scale: 1.0,
        origins: &[],
        window: None,
        softcap: None,
        sinks: None,
        mask: None,
    }
}

#[test]
fn more_keys_than_there_is_memory_for_are_an_error() {
    for length in [1 << 50, usize::MAX >> 1] {
        let error = attend(
            Tier::Scalar,
            &small(length),
            &mut [0; 4],
            Strides::default(),
        );
        assert!(matches!(error, Err(Error::NoMemory { .. })), "{error:?}");
    }
}

#[test]
fn a_cap_is_a_number_above_zero() {
    for softcap in [0.0, -30.0, f32::NAN, f32::INFINITY] {
        let call = Attention {
            softcap: Some(softcap),
            ..small(1)
        };
        let error = attend(Tier::Scalar, &call, &mut [0; 4], Strides::default());
        assert!(matches!(error, Err(Error::Softcap { .. })), "{softcap}");
    }
}
