//! Why a call did not end in "done", grouped by what the caller can conclude.

use crate::model::{ClusterId, CodeClass, OperationId, Receipt, ResultCode};
use crate::protocol::RefusalCode;

/// Why a call did not end in "done". Each has a stable number ([`ClientError::number`]) and name.
///
/// What the ledger or the cluster answered keeps its number from protocol.md (below 1,000); what
/// this library found itself counts from 1,001.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The ledger said no, for good. Logged like a success; the id is used up.
    #[error("refused: {code}. Final for this id; to try again, send a new operation")]
    Refused {
        /// Why.
        code: ResultCode,
        /// The id of the change; `None` for a look-up.
        id: Option<OperationId>,
        /// The account as it stood.
        receipt: Receipt,
    },
    /// The id itself was not taken. This copy of the operation was not applied.
    #[error("id not taken: {code}. {}", id_advice(*.code))]
    IdRefused {
        /// Why.
        code: ResultCode,
        /// The id.
        id: Option<OperationId>,
    },
    /// Not applied, and it will not be: neither refused nor done.
    #[error("not now: {code}. It was not applied; send it again with the same id")]
    NotNow {
        /// Why, as last heard.
        code: ResultCode,
        /// The id of the change; `None` for a look-up.
        id: Option<OperationId>,
    },
    /// The deadline passed before an answer came: applied or not.
    #[error(
        "outcome of {id} unknown. Send the same operation again with this id, or ask with `find`; \
         both are safe"
    )]
    Unknown {
        /// The id to ask for, or to send again with.
        id: OperationId,
    },
    /// The operation cannot mean anything. It was not applied.
    #[error("malformed operation: {code}. Mend it before sending it again")]
    Malformed {
        /// Which field.
        code: ResultCode,
    },
    /// No front answered at any of the addresses.
    #[error("cannot connect: {text}. Is a front running there?")]
    CannotConnect {
        /// What the system said, with the address.
        text: String,
    },
    /// The front belongs to another cluster than the one asked for, or the one talked to before.
    #[error("wrong cluster: {text}. Check the address and the pinned cluster id")]
    WrongCluster {
        /// Which was wanted and which was found.
        text: String,
    },
    /// The front speaks no version of the protocol that this library speaks.
    #[error("the front speaks versions {version_min} to {version_max}. Update the older side")]
    VersionUnsupported {
        /// Its lowest version.
        version_min: u16,
        /// Its highest version.
        version_max: u16,
    },
    /// The front ended the connection with a reason.
    #[error("front refused the connection: {}: {text}", .code.name())]
    ConnectionRefused {
        /// The reason.
        code: RefusalCode,
        /// The reason in words.
        text: String,
    },
    /// The other side does not keep to the protocol.
    #[error("protocol broken by the other side: {text}. Is this the address of a front?")]
    Protocol {
        /// What was wrong.
        text: String,
    },
    /// An address that cannot be read or resolved.
    #[error("bad address: {text}. Expected HOST:PORT, several with commas")]
    BadAddress {
        /// Which, and why.
        text: String,
    },
    /// More operations than one batch may have, or than the client holds at a time.
    #[error("too many operations: {count}, with room for {max}. Wait for earlier tickets first")]
    TooManyOperations {
        /// How many there were.
        count: usize,
        /// For how many there was room.
        max: usize,
    },
    /// The ticket is of another client, or its answers were taken already.
    #[error("no such ticket: of another client, or taken before")]
    NoSuchTicket,
    /// The system gave no random numbers, without which there are no ids.
    #[error("no random numbers from the system: {text}")]
    NoRandomness {
        /// What the system said.
        text: String,
    },
}

fn id_advice(code: ResultCode) -> &'static str {
    if code == ResultCode::IdReused {
        "Another operation has it; each change needs an id of its own"
    } else if code == ResultCode::IdTooOld {
        "This copy was not applied; ask with `find` whether an earlier one was"
    } else {
        "See protocol.md"
    }
}

impl ClientError {
    /// The stable number.
    #[must_use]
    pub const fn number(&self) -> u16 {
        match self {
            Self::Refused { code, .. }
            | Self::IdRefused { code, .. }
            | Self::NotNow { code, .. }
            | Self::Malformed { code } => *code as u16,
            Self::Unknown { .. } => ResultCode::Unknown as u16,
            Self::CannotConnect { .. } => 1_001,
            Self::WrongCluster { .. } => 1_002,
            Self::VersionUnsupported { .. } => 1_003,
            Self::ConnectionRefused { .. } => 1_004,
            Self::Protocol { .. } => 1_005,
            Self::BadAddress { .. } => 1_006,
            Self::TooManyOperations { .. } => 1_007,
            Self::NoSuchTicket => 1_008,
            Self::NoRandomness { .. } => 1_009,
        }
    }

    /// The stable name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Refused { code, .. }
            | Self::IdRefused { code, .. }
            | Self::NotNow { code, .. }
            | Self::Malformed { code } => code.name(),
            Self::Unknown { .. } => ResultCode::Unknown.name(),
            Self::CannotConnect { .. } => "cannot_connect",
            Self::WrongCluster { .. } => "wrong_cluster",
            Self::VersionUnsupported { .. } => "version_unsupported",
            Self::ConnectionRefused { .. } => "connection_refused",
            Self::Protocol { .. } => "protocol",
            Self::BadAddress { .. } => "bad_address",
            Self::TooManyOperations { .. } => "too_many_operations",
            Self::NoSuchTicket => "no_such_ticket",
            Self::NoRandomness { .. } => "no_randomness",
        }
    }

    /// The code of the answer, if the cluster (or, at the deadline, the library) gave one.
    #[must_use]
    pub const fn code(&self) -> Option<ResultCode> {
        match self {
            Self::Refused { code, .. }
            | Self::IdRefused { code, .. }
            | Self::NotNow { code, .. }
            | Self::Malformed { code } => Some(*code),
            Self::Unknown { .. } => Some(ResultCode::Unknown),
            Self::CannotConnect { .. }
            | Self::WrongCluster { .. }
            | Self::VersionUnsupported { .. }
            | Self::ConnectionRefused { .. }
            | Self::Protocol { .. }
            | Self::BadAddress { .. }
            | Self::TooManyOperations { .. }
            | Self::NoSuchTicket
            | Self::NoRandomness { .. } => None,
        }
    }

    /// May the same operation, with the same id, be sent again with a chance of another answer?
    #[must_use]
    pub const fn may_retry(&self) -> bool {
        matches!(
            self,
            Self::NotNow { .. }
                | Self::Unknown { .. }
                | Self::CannotConnect { .. }
                | Self::ConnectionRefused { .. }
        )
    }

    /// What an answer other than "done" means.
    pub(super) fn of(receipt: Receipt, id: Option<OperationId>) -> Result<Receipt, Self> {
        let code = receipt.code;
        match (code.class(), id) {
            (CodeClass::Done, _) => Ok(receipt),
            (CodeClass::Refusal, id) => Err(Self::Refused { code, id, receipt }),
            (CodeClass::Id, id) => Err(Self::IdRefused { code, id }),
            (CodeClass::Unknown, Some(id)) => Err(Self::Unknown { id }),
            (CodeClass::NotNow | CodeClass::Unknown, id) => Err(Self::NotNow { code, id }),
            (CodeClass::Malformed, _) => Err(Self::Malformed { code }),
        }
    }

    pub(super) fn protocol(text: impl Into<String>) -> Self {
        Self::Protocol { text: text.into() }
    }

    pub(super) fn wrong_cluster(wanted: ClusterId, found: ClusterId) -> Self {
        Self::WrongCluster {
            text: format!("wanted {wanted}, found {found}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_one_meaning() {
        let id = OperationId::from_parts(5, 5);
        for code in ResultCode::ALL.iter().copied() {
            let receipt = Receipt::bare(0, code);
            let error = match ClientError::of(receipt, Some(id)) {
                Ok(done) => {
                    assert_eq!((done, code.class()), (receipt, CodeClass::Done));
                    continue;
                }
                Err(error) => error,
            };
            assert_eq!(error.number(), code as u16);
            assert_eq!(error.name(), code.name());
            assert_eq!(error.code(), Some(code));
            assert_eq!(error.may_retry(), code.may_retry());
        }
    }
}
