//! Nodes that become members by registering, and streams that follow the list of members.

use super::super::authority::Shown;
use super::super::connections::{Asker, Greeted};
use super::super::register::{Claim, Fence, Refusal, shown};
use super::super::stream::{OnDisk, Stream};
use super::super::{NODE_WEIGHT_MAX, Running, Stage};
use super::Join;
use crate::clock::Now;
use crate::model::{Generation, LogEnd, LogNumber, Term};
use crate::protocol::{RefusalCode, Register};
use crate::role::{Level, Outbox};

impl Running {
    /// A node that is no member asks to become one.
    pub(in super::super) fn on_join(
        &mut self,
        asker: Asker,
        greeted: Greeted,
        register: &Register<'_>,
        weight: u32,
        out: &mut Outbox,
    ) {
        let node = register.node;
        if let Err((code, text)) = self.test_join(asker, greeted, register, weight) {
            self.say_refusal(node, code, &text, out);
            self.refuse(asker, code, &text, out);
            return;
        }
        let number = self
            .authority
            .change(|record| record.add_member(node, weight));
        let claim = Claim::new(asker, greeted.incarnation, register);
        self.moves.joins.push(Join {
            number,
            node,
            claim,
        });
    }

    fn test_join(
        &self,
        asker: Asker,
        greeted: Greeted,
        register: &Register<'_>,
        weight: u32,
    ) -> Result<(), Refusal> {
        let refusal = |code, text: &str| Err((code, text.to_owned()));
        if self.stage != Stage::Serving {
            return refusal(RefusalCode::Closing, "the backup is ending");
        }
        if greeted.node != Some(register.node) {
            return refusal(RefusalCode::Unexpected, "the hello named another node");
        }
        let mut joins = self.moves.joins.iter();
        if joins.any(|join| join.claim.peer() == asker.peer) {
            return refusal(RefusalCode::Unexpected, "registered already");
        }
        let latest = self.authority.latest();
        if latest.members.contains_key(&register.node) {
            return refusal(RefusalCode::InUse, "a node of this number is joining");
        }
        // It may not have got so far that its log was on its disk.
        let is_its = |log: &LogNumber| register.log.is_none_or(|own| own == *log);
        let mut retired = latest.retired.iter();
        let was_removed = retired.any(|(log, (node, _))| *node == register.node && is_its(log));
        let has_worked = shown(register) != Shown::Empty || Term(0) < register.term;
        if was_removed && has_worked {
            let text = "the node was removed from the cluster: join with an empty folder";
            return refusal(RefusalCode::NotAMember, text);
        }
        // Every member knows the generation that it was asked for.
        let was_member = Generation(0) < register.generation;
        if was_member && register.generation < latest.generation && has_worked {
            let text = "the backup was made again without this node: join with an empty folder";
            return refusal(RefusalCode::NotAMember, text);
        }
        if let Some(text) = self.test_age(register, Term(0), &LogEnd::default()) {
            return Err((RefusalCode::BackupOlder, text));
        }
        if shown(register) != Shown::Empty {
            let text = "this folder is of a node that the cluster does not have: join with an \
                        empty one";
            return refusal(RefusalCode::WrongLog, text);
        }
        if NODE_WEIGHT_MAX < weight {
            let text = format!("weight {weight}, where 0 to {NODE_WEIGHT_MAX} are possible");
            return Err((RefusalCode::Malformed, text));
        }
        if !latest.has_room() {
            return refusal(
                RefusalCode::NotAMember,
                "the cluster has no room for more nodes",
            );
        }
        Ok(())
    }

    /// Every log of the record has a stream; one whose node is no member any more is retired.
    pub(super) fn sync_streams(&mut self) {
        let record = self.authority.record();
        for (node, member) in record.logs() {
            let stream = self.streams.entry(member.log).or_insert_with(|| {
                let mut stream = Stream::new(member.log, node, record.segment_size);
                // Its number was never given before: there is nothing to look for.
                stream.on_disk = OnDisk::Missing;
                stream
            });
            stream.retired = record.retired.contains_key(&member.log);
        }
    }

    /// New members that are durable may have their logs.
    pub(super) fn finish_joins(&mut self, now: Now, out: &mut Outbox) {
        let through = self.authority.durable_through();
        let joins = std::mem::take(&mut self.moves.joins);
        let (done, waiting) = joins.into_iter().partition(|join| join.number <= through);
        self.moves.joins = waiting;
        let done: Vec<Join> = done;
        for join in done {
            let Some(member) = self.authority.record().members.get(&join.node) else {
                // One save brought it in and took it out again.
                self.dismiss(join.node, join.claim.asker(), out);
                continue;
            };
            let log = member.log;
            let stream = self.streams.get_mut(&log).expect("members have streams");
            stream.last_heard = now.tick;
            stream.fence = Fence::Waiting(join.claim);
            self.touch(log);
            let text = format!("node {} joins the cluster with log {log}", join.node);
            self.say(Level::Info, text, out);
        }
    }
}
