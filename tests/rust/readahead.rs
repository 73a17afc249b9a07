//! Units reach the consumer whole, in time and in order, whatever the engine does.

mod behaviour;
mod engine;
mod faults;
mod flow;
mod properties;
mod tuner;
