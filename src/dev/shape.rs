//! What the authority says of the cluster, as far as a drill looks at it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use crate::client::{Client, ClientError, Options};

/// How long one look may take: while the backup is away there is none.
const LOOK: Duration = Duration::from_millis(500);

/// One node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeShape {
    /// Slots that the table gives to it.
    pub(super) slots: u64,
    /// Accounts that it said it has.
    pub(super) accounts: u64,
    /// It is connected to the backup, and takes requests.
    pub(super) serves: bool,
    /// Its log.
    pub(super) log: u64,
    /// Term of its log.
    pub(super) term: u64,
}

/// A take-over, as the authority tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TakeOverShape {
    /// Unix ms at which it was noticed.
    pub(super) detected_ms: u64,
    /// From then on: the first and the last of its slots are served again.
    pub(super) first_serving_after_ms: Option<u64>,
    /// The last of them.
    pub(super) last_serving_after_ms: Option<u64>,
    /// Accounts that moved.
    pub(super) accounts: u64,
}

/// The whole cluster at one look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ClusterShape {
    /// Nodes by number.
    pub(super) nodes: BTreeMap<u32, NodeShape>,
    /// Moves under way.
    pub(super) moves: usize,
    /// Slots that are still to move.
    pub(super) slots_to_move: u64,
    take_overs: Vec<(u32, TakeOverShape)>,
}

impl ClusterShape {
    /// The newest take-over of a node.
    pub(super) fn take_over_of(&self, node: u32) -> Option<TakeOverShape> {
        let newest = self.take_overs.iter().rev().find(|(of, _)| *of == node);
        newest.map(|(_, shape)| *shape)
    }

    /// Does nothing move, and nothing want to?
    pub(super) const fn is_settled(&self) -> bool {
        self.moves == 0 && self.slots_to_move == 0
    }

    /// Accounts on other nodes than in an earlier shape. Only who got slots got any: the others may
    /// have opened some after they were last heard.
    pub(super) fn accounts_moved_since(&self, before: &Self) -> u64 {
        let gains = self.nodes.iter().map(|(node, shape)| {
            let before = before.nodes.get(node).copied().unwrap_or_default();
            if before.slots < shape.slots {
                shape.accounts.saturating_sub(before.accounts)
            } else {
                0
            }
        });
        gains.sum()
    }

    fn read(status: &Value) -> Option<Self> {
        let nodes = status.get("nodes")?.as_array()?;
        let moves = status.get("moves")?;
        let list = |name| moves.get(name).and_then(Value::as_array);
        let take_overs = list("take_overs")?.iter().filter_map(read_take_over);
        Some(Self {
            nodes: nodes.iter().filter_map(read_node).collect(),
            moves: list("moves")?.len(),
            slots_to_move: number(moves, "slots_to_move")?,
            take_overs: take_overs.collect(),
        })
    }
}

fn number(value: &Value, name: &str) -> Option<u64> {
    value.get(name)?.as_u64()
}

fn node_number(value: &Value) -> Option<u32> {
    number(value, "node")?.try_into().ok()
}

fn read_node(value: &Value) -> Option<(u32, NodeShape)> {
    let is = |name: &str, word: &str| value.get(name).and_then(Value::as_str) == Some(word);
    let shape = NodeShape {
        slots: number(value, "slots")?,
        accounts: number(value, "accounts").unwrap_or(0),
        serves: is("state", "present") && is("phase", "serving"),
        log: number(value, "log")?,
        term: number(value, "term")?,
    };
    Some((node_number(value)?, shape))
}

fn read_take_over(value: &Value) -> Option<(u32, TakeOverShape)> {
    let shape = TakeOverShape {
        detected_ms: number(value, "detected_ms")?,
        first_serving_after_ms: number(value, "first_serving_after_ms"),
        last_serving_after_ms: number(value, "last_serving_after_ms"),
        accounts: number(value, "accounts").unwrap_or(0),
    };
    Some((node_number(value)?, shape))
}

/// Looks at the cluster through its fronts.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) client: Client,
}

impl Watch {
    pub(super) fn new(fronts: &[SocketAddr]) -> Result<Self, ClientError> {
        let options = Options {
            deadline: LOOK,
            ..Options::default()
        };
        Ok(Self {
            client: Client::connect_to(fronts, &options)?,
        })
    }

    /// The cluster now; `None` while nobody can say.
    pub(super) fn look(&mut self) -> Option<ClusterShape> {
        let text = self.client.status().ok()?;
        ClusterShape::read(&serde_json::from_str(&text).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_status_is_read_as_far_as_it_is_needed() {
        let status = json!({
            "nodes": [
                { "node": 1, "log": 1, "term": 4, "slots": 40_000, "accounts": 7,
                  "state": "present", "phase": "serving" },
                { "node": 2, "log": 2, "term": 5, "slots": 0, "accounts": null,
                  "state": "away", "phase": null },
            ],
            "moves": {
                "slots_to_move": 3,
                "moves": [{}],
                "take_overs": [
                    { "node": 2, "detected_ms": 5, "accounts": 9,
                      "first_serving_after_ms": 20, "last_serving_after_ms": null },
                ],
            },
        });
        let shape = ClusterShape::read(&status).unwrap();
        assert_eq!(shape.nodes[&1].slots, 40_000);
        assert!(shape.nodes[&1].serves && !shape.nodes[&2].serves);
        assert!(!shape.is_settled());
        let take_over = shape.take_over_of(2).unwrap();
        assert_eq!(take_over.first_serving_after_ms, Some(20));
        assert_eq!(take_over.last_serving_after_ms, None);
        assert_eq!(shape.take_over_of(1), None);
        assert_eq!(shape.accounts_moved_since(&ClusterShape::default()), 7);
        let mut after = shape.clone();
        after.nodes.get_mut(&1).unwrap().accounts = 10;
        assert_eq!(after.accounts_moved_since(&shape), 0, "opened, not moved");
        assert_eq!(ClusterShape::read(&json!({ "error": "away" })), None);
    }
}
