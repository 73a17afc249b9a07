//! Parts of a unit arrive whole and end up aligned.
