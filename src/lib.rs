//! Counterfoil: a sharded ledger for virtual currencies.
//!
//! An answer you got is never lost and never applied twice, whichever machine dies.
//!
//! This crate is the client library ([`client`]) and, with the feature `daemon` (on by default),
//! the daemons and the command line. Reading order for the code: [`model`], [`protocol`], then
//! `ledger`, `log`, `node`; ARCHITECTURE.md has the map.

#[doc(hidden)]
pub mod canary;
pub mod client;
pub mod limits;
pub mod model;
pub mod protocol;

#[cfg(feature = "daemon")]
#[doc(hidden)]
pub mod backup;
#[cfg(feature = "daemon")]
#[doc(hidden)]
pub mod bench;
#[cfg(feature = "daemon")]
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod clock;
#[cfg(feature = "daemon")]
#[doc(hidden)]
pub mod dev;
#[cfg(feature = "daemon")]
#[doc(hidden)]
pub mod disk;
#[cfg(feature = "daemon")]
#[doc(hidden)]
pub mod front;
#[cfg(feature = "daemon")]
#[doc(hidden)]
pub mod ledger;
#[cfg(feature = "daemon")]
#[doc(hidden)]
pub mod log;
#[cfg(feature = "daemon")]
#[doc(hidden)]
pub mod net;
#[cfg(feature = "daemon")]
#[doc(hidden)]
pub mod node;
#[cfg(feature = "daemon")]
#[doc(hidden)]
pub mod ring;
#[cfg(feature = "daemon")]
#[doc(hidden)]
pub mod role;
#[cfg(feature = "daemon")]
#[doc(hidden)]
pub mod sim;
