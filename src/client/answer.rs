//! What a call gives back.

use super::ClientError;
use crate::model::{Operation, OperationId, Receipt, ResultCode, Row};

/// The answer to one operation of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The id of the change; `None` for a look-up.
    pub id: Option<OperationId>,
    /// The answer. Its `index` is always 0.
    pub receipt: Receipt,
    /// The accounts that a `list` asked for; empty for other kinds.
    pub rows: Vec<Row>,
}

impl Answer {
    /// Done, or why not.
    pub fn result(&self) -> Result<Receipt, ClientError> {
        ClientError::of(self.receipt, self.id)
    }
}

/// What is known of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Found {
    /// The operation was done or refused: its first receipt again.
    Answered(Receipt),
    /// The id was burned: no copy of the operation was applied, and none ever will be.
    Cancelled,
    /// Not seen so far. A copy that is still on its way may be applied yet: see
    /// [`Client::cancel`](super::Client::cancel).
    NotSeen,
    /// Too old to be applied any more, and it never was.
    Never,
    /// Too old to tell: what was asked for is no longer kept.
    BeyondRetention,
}

impl Found {
    pub(super) fn of(receipt: Receipt, id: OperationId) -> Result<Self, ClientError> {
        let code = receipt.code;
        if code == ResultCode::Cancelled {
            return Ok(Self::Cancelled);
        }
        if code == ResultCode::NotSeen {
            return Ok(Self::NotSeen);
        }
        if code == ResultCode::Never {
            return Ok(Self::Never);
        }
        if code == ResultCode::BeyondRetention {
            return Ok(Self::BeyondRetention);
        }
        match ClientError::of(receipt, Some(id)) {
            Ok(receipt) | Err(ClientError::Refused { receipt, .. }) => Ok(Self::Answered(receipt)),
            Err(error) => Err(error),
        }
    }
}

/// The id to name when the outcome of an operation is asked for: look-ups have none.
pub(super) fn change_id(operation: &Operation) -> Option<OperationId> {
    operation.id().filter(|_| operation.is_change())
}
