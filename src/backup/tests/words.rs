//! Messages of a backup in a few words.

use crate::protocol::Message;

/// A message in a few words.
pub(super) fn text_of(message: &Message<'_>) -> String {
    match message {
        Message::Welcome(_) => "welcome".to_owned(),
        Message::Refused(refused) => format!("refused {}", refused.code.name()),
        Message::Granted(granted) => format!(
            "granted log {} term {} behind {}",
            granted.log, granted.term, granted.end.seq
        ),
        Message::Appended(appended) => {
            format!("appended {} in term {}", appended.through, appended.term)
        }
        Message::Resend { end, .. } => format!("resend behind {}", end.seq),
        Message::Confirmed(confirmed) => {
            format!("confirmed {} in term {}", confirmed.nonce, confirmed.term)
        }
        Message::Fetched(fetched) => {
            format!("fetched {} at {}", fetched.blocks.len(), fetched.offset)
        }
        Message::CheckpointPart(part) => format!("part at {} of {}", part.offset, part.size),
        Message::EntryRead(read) => format!("entry {}", read.entry.is_some()),
        Message::Table(table) => {
            let present = table
                .members
                .iter()
                .map(|member| format!("{:?}", member.unwrap().state));
            let states: Vec<String> = present.collect();
            format!("table {} {}", table.ring_epoch, states.join(" "))
        }
        other => format!("{:?}", other.kind()).to_lowercase(),
    }
}
