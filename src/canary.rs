//! Deliberate defects, to prove the simulator: each must be caught within a stated number of seeds.
//!
//! They exist only in a build with the feature `canary`, which no release has; in any other build
//! [`on`] is a constant `false` and leaves nothing behind. One defect is chosen at run time
//! (`counterfoil sim --bug NAME`). docs/seeded-bugs.md says which check catches which.

macro_rules! bugs {
    ($($variant:ident, $name:literal, $place:literal, $seeds:literal, $text:literal;)*) => {
        /// One defect.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Bug {
            $(
                #[doc = $text]
                $variant,
            )*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name on the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The file that it is in.
            #[must_use]
            pub const fn place(self) -> &'static str {
                match self {
                    $(Self::$variant => $place,)*
                }
            }

            /// It is caught within so many seeds.
            #[must_use]
            pub const fn seed_count_max(self) -> u64 {
                match self {
                    $(Self::$variant => $seeds,)*
                }
            }

            /// What it does.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

bugs! {
    AnswerBeforeSync, "answer-before-sync", "node/commit.rs", 20,
        "A node answers once the backup has the block, synced here or not.";
    AnswerBeforeBackup, "answer-before-backup", "node/commit.rs", 20,
        "A node answers once its own disk has the block.";
    UncommittedLookUp, "uncommitted-look-up", "node/lookups.rs", 20,
        "A look-up leaves before what it shows is committed.";
    ReusedConfirmation, "reused-confirmation", "node/lookups.rs", 400,
        "A look-up is confirmed by a round trip that came back before it came.";
    ReplayBeforeCommit, "replay-before-commit", "node/turn.rs", 20,
        "A replay is answered before its first copy is committed.";
    IdReuseUnnoticed, "id-reuse-unnoticed", "node/prove.rs", 20,
        "An id with another content gets the first one's receipt.";
    IdentityNotSaved, "identity-not-saved", "node/mod.rs", 20,
        "A node works in a term before it has saved it.";
    ClockUnbounded, "clock-unbounded", "node/clock.rs", 20,
        "Log time follows the node's own date, however wrong that is.";
    ResendSkips, "resend-skips", "node/replicate.rs", 200,
        "What the backup asks for again begins one block too late.";
    FoldBeyondCommit, "fold-beyond-commit", "node/running.rs", 400,
        "A checkpoint reaches beyond what is committed.";
    IgnoredHorizon, "ignored-horizon", "ledger/mod.rs", 20,
        "An id older than the horizon is taken for a new one.";
    ForgottenId, "forgotten-id", "ledger/ids.rs", 20,
        "One id in sixteen is not remembered.";
    ShortWindow, "short-window", "ledger/mod.rs", 100,
        "Ids are forgotten at once when memory is short.";
    FloorForgotten, "floor-forgotten", "ledger/rules.rs", 20,
        "A debit goes below the floor.";
    VersionIgnored, "version-ignored", "ledger/rules.rs", 20,
        "A change is applied whatever version it expects.";
    SupplyNotCounted, "supply-not-counted", "ledger/supply.rs", 20,
        "What is burned is not counted.";
    ListShort, "list-short", "ledger/mod.rs", 20,
        "A list leaves out its last row.";
    AckAboveDurable, "ack-above-durable", "backup/append.rs", 20,
        "The backup acknowledges what it has not synced.";
    AcceptedDamage, "accepted-damage", "backup/start.rs", 20,
        "A backup serves a log that ends before what was committed.";
    SameTerm, "same-term", "backup/authority/membership.rs", 20,
        "A new owner of a log gets the term of the one before.";
    LateConnection, "late-connection", "backup/register.rs", 20,
        "A connection that was replaced is listened to.";
    SkippedSync, "skipped-sync", "log/store/mod.rs", 20,
        "Blocks are not synced.";
    RetriedSync, "retried-sync", "log/store/mod.rs", 400,
        "A sync that failed is tried again.";
    NotWrittenAgain, "not-written-again", "log/store/again.rs", 100,
        "What an earlier life could not sync counts as durable.";
    UnsyncedName, "unsynced-name", "log/segment.rs", 200,
        "A segment is used before its name is durable.";
    UnsyncedFile, "unsynced-file", "log/small_file.rs", 20,
        "A small file takes its name before its content is durable.";
    FrontForgetsDoubt, "front-forgets-doubt", "front/inflight.rs", 20,
        "A front says not-now although a copy is unanswered.";
    NewIdOnRetry, "new-id-on-retry", "client/session/work.rs", 20,
        "A session sends a change again under another id.";
    DoubtForgotten, "doubt-forgotten", "client/session/work.rs", 20,
        "A session says not-now although a copy is unanswered.";
    FlipBeforeAdoption, "flip-before-adoption", "backup/moves/steps.rs", 20,
        "Slots are flipped to a node as soon as they are handed over.";
    FlippedSlotsPlanned, "flipped-slots-planned", "backup/moves/plan.rs", 400,
        "A plan takes slots away that their new owner has not activated.";
    ActivationLeftOut, "activation-left-out", "backup/moves/take_over.rs", 400,
        "A take-over forgets what was flipped to the dead node and not activated.";
    ActivationBeforeFlip, "activation-before-flip", "node/moves/target.rs", 20,
        "A node serves slots once it has adopted them.";
    StagedServed, "staged-served", "node/slots.rs", 200,
        "A node serves what the table gives it, activated or not.";
    SlotsNotCleared, "slots-not-cleared", "node/moves/source.rs", 100,
        "A node goes on serving what it has handed over.";
    ImageWithoutIds, "image-without-ids", "ledger/image.rs", 100,
        "Slots move without the ids of their operations.";
    HorizonNotRaised, "horizon-not-raised", "ledger/stage.rs", 400,
        "A log that adopts slots keeps its own horizon.";
    OwnerNotFenced, "owner-not-fenced", "backup/moves/take_over.rs", 100,
        "A log is taken over while its owner may still append and be acknowledged.";
    MoveNumberIgnored, "move-number-ignored", "backup/moves/steps.rs", 400,
        "An activation counts for whatever move its log is the target of.";
    DoubtfulEndTaken, "doubtful-end-taken", "backup/ends.rs", 400,
        "A log is taken over although its end was found torn and its node was not back since.";
    StaleDraft, "stale-draft", "disk/images.rs", 400,
        "An image that was begun early is used although its log went on.";
    SessionReorders, "session-reorders", "client/session/work.rs", 20,
        "A session sends a later operation of a user before one that was put back.";
}

#[cfg(feature = "canary")]
mod chosen {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Bug;

    /// Number of the chosen one; the highest number = none.
    static CHOSEN: AtomicUsize = AtomicUsize::new(usize::MAX);

    /// Chooses the defect of this process; `None` = it is sound.
    pub fn choose(bug: Option<Bug>) {
        let number = bug.map_or(usize::MAX, |bug| bug as usize);
        CHOSEN.store(number, Ordering::Relaxed);
    }

    /// Is this the chosen one?
    #[must_use]
    pub fn on(bug: Bug) -> bool {
        CHOSEN.load(Ordering::Relaxed) == bug as usize
    }
}

#[cfg(feature = "canary")]
pub use chosen::{choose, on};

/// Never: this build has no defects on purpose.
#[cfg(not(feature = "canary"))]
#[must_use]
pub const fn on(_bug: Bug) -> bool {
    false
}
