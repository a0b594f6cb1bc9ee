//! Whole-ledger tests.
