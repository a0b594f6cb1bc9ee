//! tests of starts
