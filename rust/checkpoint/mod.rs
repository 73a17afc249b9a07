//! What others ship: which tensor lies where in which file.
