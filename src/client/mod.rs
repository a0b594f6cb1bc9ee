//! The client library: changes that are applied exactly once, whatever happens on the way.
//!
//! ```no_run
//! use counterfoil::client::{AccountSettings, Client, ClientError, Currency, Options, UserId};
//!
//! fn main() -> Result<(), ClientError> {
//!     let mut client = Client::connect("127.0.0.1:6468", &Options::default())?;
//!     let user = UserId::new(42).expect("not 0");
//!     let coins = Currency::new(1).expect("not 0");
//!
//!     match client.open(user, coins, AccountSettings::default()) {
//!         Ok(_) => println!("opened"),
//!         Err(ClientError::Refused { code, .. }) => println!("not opened: {code}"),
//!         Err(error) => return Err(error),
//!     }
//!     let receipt = client.credit(user, coins, 100)?;
//!     println!("balance {} at version {}", receipt.available, receipt.version);
//!     Ok(())
//! }
//! ```
//!
//! # What a call promises
//!
//! | result | the change was applied | what to do |
//! | --- | --- | --- |
//! | `Ok(receipt)` | once, for good | |
//! | [`ClientError::Refused`] | no, for good; the id is used up | decide anew |
//! | [`ClientError::IdRefused`] | not by this copy | see its code |
//! | [`ClientError::NotNow`] | no | send it again, same id |
//! | [`ClientError::Unknown`] | perhaps, at most once | send it again, or [`Client::cancel`] |
//! | [`ClientError::Malformed`] | no | mend it |
//!
//! The id is made before the first copy is sent ([`Client::new_id`]) and kept over all retries.
//! Not-now answers and lost connections are dealt with inside until the deadline
//! ([`Options::deadline`]); an answer "not now" comes out only if no copy is left in doubt.
//! To be safe against the death of the calling process too: make the operation, store it with its
//! id, then [`Client::execute`] it, and after a restart execute it again.
//!
//! Operations of one user are applied in the order in which they were handed in. Only what stays
//! [`ClientError::Unknown`] may be overtaken by later ones. Different users have no order.
//!
//! # Many operations
//!
//! [`Client::batch`] does any number at once. [`Client::submit`] and [`Client::wait`] keep several
//! batches in flight; [`Client::poll`] does so without waiting. For an event loop of one's own
//! there is [`session`]: the same client without sockets, clocks or threads.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! | --- | --- | --- |
//! | `daemon` | yes | daemons and command line |
//!
//! For the client alone: `counterfoil = { version = "0.1", default-features = false }`.

mod answer;
mod blocking;
mod error;
mod ids;
pub mod session;
mod wire;

use std::time::Duration;

use crate::limits::DEADLINE_MS_DEFAULT;

pub use answer::{Answer, Found};
pub use blocking::{Client, resolve};
pub use error::ClientError;
pub use session::Ticket;

pub use crate::model::{
    AccountSettings, ClusterId, CodeClass, Currency, Flags, Kind, MoveNumber, NodeId, Operation,
    OperationId, Receipt, ReceiptFlags, ResultCode, Row, UserId,
};
pub use crate::protocol::{AuditRow, ClusterAsk, ClusterCommand};

/// How a [`Client`] is to behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// From a call to its answer at the latest, whatever happens: 1 ms to 10 s, above which it
    /// counts as 10 s. Default 5 s. Look-ups and changes alike.
    pub deadline: Duration,
    /// How long one attempt to connect to one address may take. Default 3 s.
    pub connect_timeout: Duration,
    /// The only cluster to talk to. Default `None`: the first one met, and no other after it.
    pub cluster: Option<ClusterId>,
    /// Request frames in flight, 1 or more. Default 64; a front may allow fewer.
    pub pipeline_depth: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            deadline: Duration::from_millis(u64::from(DEADLINE_MS_DEFAULT)),
            connect_timeout: Duration::from_secs(3),
            cluster: None,
            pipeline_depth: 64,
        }
    }
}
