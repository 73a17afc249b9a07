//! Packed weights: every tier against the scalar reference, and products against f64.

mod attention;
mod dense;
mod numbers;
mod product;
mod team;
