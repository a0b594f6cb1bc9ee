//! Every limit of the product, each with its reason. Documented in protocol.md and docs/.

/// Operations in one request frame: one frame must fit in one block of the log.
pub const BATCH_COUNT_MAX: u32 = 8_192;

/// Bytes of a frame from or to a client: a full batch of operations with its headers.
pub const FRAME_SIZE_MAX: u32 = 1 << 20;

/// Bytes of a frame between daemons: one block of the log with its headers.
pub const LINK_FRAME_SIZE_MAX: u32 = 4 << 20;

/// Bytes of a frame before the handshake is done: a stranger costs no more than this.
pub const HELLO_FRAME_SIZE_MAX: u32 = 512;

/// Entries in one block: a full batch of operations of which each takes one entry, and room for
/// the node's own entries.
pub const BLOCK_ENTRY_COUNT_MAX: u32 = 8_192 + 64;

/// Bytes of a segment of the log unless set otherwise: small enough to retire often, large enough
/// to amortise its preparation.
pub const SEGMENT_SIZE_DEFAULT: u64 = 64 << 20;

/// Smallest settable segment: it must hold one full block.
pub const SEGMENT_SIZE_MIN: u64 = 2 << 20;

/// Largest settable segment: offsets inside it fit in 32 bits.
pub const SEGMENT_SIZE_MAX: u64 = 1 << 30;

/// Bytes that an append to a log writes at most without a sync: so much of its end is written again
/// when it is opened, whoever says that it is committed. A turn's blocks are rarely more.
pub const LOG_UNSYNCED_SIZE_MAX: u64 = 8 << 20;

/// Blocks that may be applied but not committed yet; above it a node answers `unavailable`.
pub const BLOCKS_IN_FLIGHT_MAX: u32 = 8;

/// Blocks in flight from which on a node waits until a full block has gathered: more load makes
/// larger blocks, not more of them.
pub const BLOCKS_IN_FLIGHT_EAGER: u32 = 2;

/// Operations that are worth a block of their own while another one is in flight: two syncs, a
/// frame to the backup and its answer cost about as much as so many operations.
pub const BLOCK_WORTH_COUNT: u32 = 128;

/// Nanoseconds for which a node lets small requests gather at most while no block is on its way: no
/// longer than the last one took, and only if something came meanwhile.
pub const GATHER_NS_MAX: u64 = 1_000_000;

/// Operations that wait on a node for their turn; above it `busy`. Eight full blocks.
pub const NODE_QUEUED_COUNT_MAX: u32 = 8 * BATCH_COUNT_MAX;

/// Operations on a node that wait for a cold entry, with those that they hold back; above it
/// `busy`.
pub const NODE_PARKED_COUNT_MAX: u32 = 4_096;

/// Entries that a node asks the backup for at a time; more wait. Half of what a backup reads for
/// one peer.
pub const NODE_ENTRY_ASK_COUNT_MAX: u32 = 8;

/// Operations behind one that waits for a cold entry whose own cold entries are asked for
/// meanwhile: twice what is asked for at a time, so that the next ones are at hand.
pub const NODE_ENTRY_AHEAD_COUNT: u32 = 2 * NODE_ENTRY_ASK_COUNT_MAX;

/// Orders of the authority that wait on a node until they can be begun: it gives out one or two
/// at a time.
pub const NODE_MOVE_ORDER_COUNT_MAX: u32 = 64;

/// Bytes of answers on a node that wait for their commit or confirmation; above it `busy`.
pub const NODE_ANSWER_SIZE_MAX: u64 = 64 << 20;

/// Entries of the node's own (epoch, activation, horizon) in a block that also has changes.
pub const OWN_ENTRY_COUNT_MAX: u32 = BLOCK_ENTRY_COUNT_MAX - BATCH_COUNT_MAX;

/// How long a starting node goes on registering while its id is in use by another process. Longer
/// than it takes to notice that the other one is gone.
pub const IN_USE_MS_MAX: u64 = 5 * LINK_SILENCE_MS_MAX;

/// How long a node that was told to stop waits for what it applied to be committed.
pub const STOP_MS_MAX: u64 = 5_000;

/// Interval at which a node looks after checkpoints, old segments and free space.
pub const UPKEEP_MS: u64 = 1_000;

/// Bytes that a starting node may have fetched but not made durable before it fetches more.
pub const FETCH_AHEAD_SIZE_MAX: u64 = 4 * FETCH_SIZE_MAX as u64;

/// Slots of the ring.
pub const SLOT_COUNT: u32 = 65_536;

/// Node keys of weight 1: enough for an even spread, few enough to plan in a millisecond.
pub const NODE_KEY_COUNT_DEFAULT: u32 = 128;

/// Node keys of one node at the highest weight.
pub const NODE_KEY_COUNT_MAX: u32 = 4_096;

/// Nodes of one cluster.
pub const NODE_COUNT_MAX: u32 = 1_024;

/// Currencies of one user: a listing of a user stays a bounded walk.
pub const CURRENCIES_PER_USER_MAX: u32 = 4_096;

/// Different currencies on one node: the sums of all of them and the worst list of slots must fit
/// in the one block by which a log hands everything over.
pub const CURRENCY_COUNT_MAX: u32 = 8_192;

/// Accounts that a planned move takes at a time, about: its slots stand still for as long as it
/// takes to copy and load so many.
pub const MOVE_ACCOUNT_COUNT_GOAL: u64 = 8_000;

/// Accounts that one step of a watch, a sweep or a load takes on a node that goes on serving:
/// about a millisecond.
pub const MOVE_STEP_ACCOUNT_COUNT_MAX: u32 = 4_096;

/// Pages of an image (64 KiB each) that a node reads in at a time: one to two milliseconds of its
/// loop.
pub const MOVE_LOAD_PAGE_COUNT: u32 = 4;

/// Such pieces of an image that a node asks its disk for ahead, and may take in by one turn. One at
/// a time they took a turn each; eight held up the users of its other slots.
pub const MOVE_LOAD_PIECE_COUNT_MAX: u32 = 3;

/// Bytes of an image that a node asks the backup for at a time. Whatever else the two have to say
/// to each other waits behind a piece; with 2 MiB each, users waited for a tenth of a second.
pub const MOVE_COPY_PIECE_SIZE: u32 = 256 << 10;

/// Such pieces that a node has under way at a time, asked for or being written. A quarter of what
/// a backup reads for one peer.
pub const MOVE_COPY_PIECE_COUNT_MAX: u32 = 4;

/// Part of the time after which a silent node is taken over, as a divisor, after which the backup
/// begins the images of its slots: well before they are needed, and not for every lost connection.
pub const TAKE_OVER_DRAFT_DIVISOR: u64 = 4;

/// How long what may wait does wait while slots are on their way that nobody serves: a checkpoint
/// that is due or being made, and the replicas of nodes that live. The time of the processors goes
/// to the users who wait.
pub const MOVE_CALM_MS_MAX: u64 = 3_000;

/// Slot ranges of one move: every second slot.
pub const MOVE_RANGE_COUNT_MAX: u32 = SLOT_COUNT / 2;

/// Accounts on one node: they are numbered in 32 bits, with room for marks.
pub const ACCOUNT_COUNT_MAX: u32 = 1 << 30;

/// Rows that one `list` returns; more are fetched by cursor.
pub const LIST_ROW_COUNT_MAX: u32 = 256;

/// Rows that one turn of a node returns; above it `busy`.
pub const TURN_ROW_COUNT_MAX: u32 = 16_384;

/// Largest amount in minor units: what a balance can hold.
pub const AMOUNT_MAX: u64 = i64::MAX as u64;

/// Longest deadline a request may carry.
pub const DEADLINE_MS_MAX: u32 = 10_000;

/// Deadline of a request that carries none.
pub const DEADLINE_MS_DEFAULT: u32 = 5_000;

/// How far an id's time may lie ahead of the node's log time.
pub const ID_AHEAD_MS_MAX: u64 = 60_000;

/// How long ids are remembered unless memory is short.
pub const ID_WINDOW_MS: u64 = 24 * 60 * 60 * 1_000;

/// How long ids are always remembered: every retry within its deadline finds its first copy, with
/// a factor of three for clocks and queues.
pub const ID_WINDOW_MS_MIN: u64 = 3 * DEADLINE_MS_MAX as u64;

/// Ids that a node remembers unless set otherwise (16 bytes each).
pub const ID_COUNT_DEFAULT: u64 = 1 << 25;

/// How far log time may run ahead of the backup's clock.
pub const LOG_TIME_AHEAD_MS_MAX: u64 = 1_000;

/// A node whose clock disagrees with the backup's by more takes no changes.
pub const CLOCK_SKEW_MS_MAX: u64 = 5_000;

/// Inputs handed to a role before its turn ends: a turn must fit in one sync.
pub const INPUTS_PER_TURN_MAX: u32 = 1_024;

/// Connections of one listener.
pub const CONNECTION_COUNT_MAX: u32 = 10_000;

/// Accepted connections per wake-up, so that a flood of them cannot starve the others.
pub const ACCEPTS_PER_TURN_MAX: u32 = 64;

/// Time from accept to the end of the handshake.
pub const HANDSHAKE_MS_MAX: u64 = 3_000;

/// Time from a frame's first byte to its last.
pub const FRAME_MS_MAX: u64 = 5_000;

/// Time that a peer may leave queued bytes untaken.
pub const WRITE_STALL_MS_MAX: u64 = 10_000;

/// Bytes queued for a client above which it is no longer read from.
pub const CLIENT_QUEUE_SIZE_HIGH: u32 = 4 << 20;

/// Bytes queued for a client at which it is read from again.
pub const CLIENT_QUEUE_SIZE_LOW: u32 = 1 << 20;

/// Bytes that all clients of a loop together may make it keep (beginnings of frames, answers not
/// taken) before none of them begins another frame; above twice as many, whoever needs more is
/// sent away. Room for hundreds of full frames: ten thousand small ones never get there.
pub const CLIENT_BUFFERS_SIZE_MAX: u32 = 256 << 20;

/// Bytes queued for a peer of the cluster above which its link is closed and dialled anew.
pub const LINK_QUEUE_SIZE_MAX: u32 = 256 << 20;

/// Silence after which a client connection is asked for a sign of life.
pub const CLIENT_PING_MS: u64 = 30_000;

/// Interval of signs of life between daemons.
pub const LINK_PING_MS: u64 = 250;

/// Silence after which a daemon counts as gone.
pub const LINK_SILENCE_MS_MAX: u64 = 2_000;

/// Pause before a lost link is dialled again.
pub const REDIAL_MS: u64 = 50;

/// Operations that a front holds at a time, for all clients and nodes.
pub const FRONT_OPERATION_COUNT_MAX: u32 = 1 << 19;

/// Share of a front's budget that one node may use, as a divisor.
pub const FRONT_NODE_SHARE_DIVISOR: u32 = 2;

/// Request frames of one client that a front holds at a time.
pub const CLIENT_FRAMES_IN_FLIGHT_MAX: u32 = 1_024;

/// Pause before a router sends an operation again after a not-now answer.
pub const RETRY_MS: u64 = 5;

/// Pause before a router tries an operation again that got `moving`, if no newer table came: a
/// hand-over takes a fraction of it, and the table that ends it is told at once.
pub const MOVING_RETRY_MS: u64 = 1_000;

/// Time that a balancer keeps of a deadline for a router's answer to come back in, at most; of a
/// short one it keeps an eighth. Without it the balancer's time is up first, and what was never
/// sent to any node is told as unknown.
pub const ROUTER_ANSWER_MS: u64 = 20;

/// Bytes of free disk space below which a node takes no changes.
pub const DISK_RESERVE_SIZE: u64 = 256 << 20;

/// Bytes of one reply to a fetch of log or checkpoint bytes: at least one whole block.
pub const FETCH_SIZE_MAX: u32 = 2 << 20;

/// Bytes of a small file's content (identity, authority, base of a log): the authority's record
/// of the largest cluster, with room.
pub const SMALL_FILE_SIZE_MAX: u32 = 64 << 20;

/// Retired segments of one log that wait to be used again; more are removed.
pub const SEGMENT_POOL_COUNT_MAX: u32 = 2;

/// Bytes of the JSON text of one status answer.
pub const STATUS_SIZE_MAX: u32 = 512 << 10;

/// Time that a dial may take.
pub const DIAL_MS_MAX: u64 = 3_000;

/// Time in which what is queued at the end of the process must be taken.
pub const EXIT_FLUSH_MS_MAX: u64 = 1_000;

/// Time that a refused peer has to read why and to close its side.
pub const LINGER_MS_MAX: u64 = 1_000;

/// Time in which the disk threads must finish at the end of the process.
pub const LANES_END_MS_MAX: u64 = 5_000;

/// The same where the process is to go on in the same folder: the making of a checkpoint may take
/// this long. Behind it the process ends, and whoever watches it starts it again.
pub const LANES_AGAIN_MS_MAX: u64 = 60_000;

/// Pause of a listener that could not accept for want of descriptors or memory.
pub const ACCEPT_PAUSE_MS: u64 = 50;

/// Bytes taken with one read at most: one system call takes many frames.
pub const READ_SIZE_MAX: usize = 256 << 10;

/// Bytes of frames handed to a role before its turn ends: a turn stays short whatever frames hold.
pub const TURN_FRAME_SIZE_MAX: usize = 2 << 20;

/// Frames of one peer before the next ready one has its turn.
pub const TURN_PEER_FRAME_COUNT_MAX: u32 = 128;

/// Bytes that a peer must take within the write stall limit to count as taking.
pub const WRITE_PROGRESS_SIZE_MIN: usize = 64 << 10;

/// Receive buffers that a loop keeps for the next connection that needs one.
pub const INTAKE_KEPT_COUNT_MAX: usize = 64;

/// Largest receive buffer that a loop keeps.
pub const INTAKE_KEPT_SIZE_MAX: usize = 1 << 20;

/// Interval of lines about one listener's troubles.
pub const LISTENER_SAY_MS: u64 = 1_000;

/// Lateness up to which a peer is forgiven if bytes of it wait to be read: the loop was busy.
pub const LATE_MS_MAX: u64 = 1_000;

/// Listeners of one loop at most.
pub const LISTENER_COUNT_MAX: usize = 16;

/// Events that a loop takes from the system at a time.
pub const EVENT_COUNT_MAX: usize = 1_024;

/// Descriptors that are not for peers: files of the disk, dialled links, listeners.
pub const DESCRIPTOR_RESERVE_COUNT: u64 = 128;

/// Bytes of buffers that an outbox keeps from one turn to the next, for all peers together.
pub const OUTBOX_KEPT_SIZE_MAX: usize = 64 << 20;

/// Buffers that an outbox keeps from one turn to the next.
pub const OUTBOX_KEPT_COUNT_MAX: usize = 4_096;

/// Answers that a front gathers before they are written out within a turn: what joins them per
/// batch must not grow with the size of the turn.
pub const FRONT_ANSWER_COUNT_MAX: usize = 65_536;

/// Questions of operators that a front has under way: each is a few bytes here and a scan of sums
/// at the backup.
pub const FRONT_QUESTION_COUNT_MAX: usize = 256;

/// Longest pause between two dials: a part that came back is found within a second.
pub const REDIAL_MS_MAX: u64 = 1_000;

/// Lists of frames that a front keeps for the next ones: enough for the round trip of a node at
/// many turns.
pub const FRONT_SPARE_LIST_COUNT_MAX: usize = 256;

/// Longest pause before an operation is sent again after a not-now answer, in milliseconds: short
/// beside any deadline, long enough not to burden a cluster in trouble.
pub const CLIENT_RETRY_MS_MAX: u64 = 200;

/// Operations that a session holds, unanswered or not yet taken. Bounds its memory to about
/// 64 MiB; several full batches for each of many frames in flight.
pub const CLIENT_OPERATION_COUNT_MAX: usize = 1 << 18;

/// Bytes that a client has to send above which it writes no further frame: two full ones keep a
/// socket busy.
pub const CLIENT_OUT_SIZE_MAX: usize = 2 << 20;

/// How long before a deadline the front is told to answer, so that its answer still comes in time:
/// an eighth of what is left, in milliseconds at most this.
pub const CLIENT_MARGIN_MS_MAX: u64 = 100;

/// How long after its deadline a frame may stay without an answer before the connection is given
/// up, in milliseconds: the front answers at the deadline, whatever happens behind it.
pub const CLIENT_OVERDUE_MS_MAX: u64 = 1_000;

/// Silence, while answers are awaited, after which the front is asked for a sign of life, in
/// milliseconds: longer than a commit takes, short beside a deadline.
pub const CLIENT_SILENCE_MS: u64 = 1_000;

/// How long a sign of life may take, in milliseconds. A front answers it without asking anybody,
/// so one that does not is gone, and another address still has time to answer.
pub const CLIENT_PONG_MS_MAX: u64 = 1_000;

/// How long answers of a front that is ending are waited for, in milliseconds.
pub const CLIENT_GOAWAY_MS_MAX: u64 = 1_000;

/// Rows of one audit that a client takes: every currency of every node would be fewer.
pub const CLIENT_AUDIT_ROW_COUNT_MAX: usize = 1 << 20;

/// Bytes of a client's receive buffer at first: a few thousand receipts.
pub const CLIENT_BUFFER_SIZE: usize = 256 << 10;

/// Batches of one call of the client library in flight: enough to keep a cluster busy.
pub const CLIENT_BATCHES_IN_FLIGHT_MAX: usize = 4;

/// Idle time after which a call first looks whether the connection is still there, in
/// milliseconds: what is sent on a dead one is in doubt until it is sent again.
pub const CLIENT_IDLE_MS: u64 = 100;

/// Grants of one log that are kept, newest last: enough to tell a replaced incarnation from a
/// new one, and to show an operator what happened.
pub const GRANT_COUNT_MAX: usize = 16;

/// Reads that a backup has under way for all peers: also of those that are gone meanwhile.
pub const BACKUP_READ_COUNT_MAX: usize = 4_096;

/// Askers for a checkpoint that wait at a backup until a newer one is made.
pub const BACKUP_HELD_COUNT_MAX: usize = 64;

/// Requests that an operator's command may have in flight at a backup.
pub const BACKUP_CLIENT_FRAMES_MAX: u32 = 16;

/// How long a log must have stood still before the backup records where it ends. While it moves,
/// each block says what was committed before it.
pub const END_QUIET_MS: u64 = 1_000;

/// Interval of the lines that say how far a backup is that is made again from the nodes.
pub const RECOVER_SAY_MS: u64 = 1_000;

/// Opening differences, one a currency, that `status` shows after a recovery: it is one text.
pub const OPENING_COUNT_MAX: usize = 100;

/// Pause before background work of a backup that failed is tried again.
pub const BACKUP_RETRY_MS: u64 = 60_000;

/// Ends of the newest blocks of a log that a backup keeps in memory: resent blocks are compared
/// with them, and the replica is stopped at them to compare digests with the node's.
pub const BACKUP_RECENT_BLOCK_COUNT: usize = 1_024;

/// Beginnings of terms of a log that a backup keeps in memory: what a grant can tell.
pub const BACKUP_TERM_COUNT_MAX: usize = 1_024;

/// Pause before a gap is answered with the same demand again.
pub const RESEND_MS: u64 = 250;

/// How often a copied checkpoint may turn out wrong (the backup made a newer one meanwhile).
pub const CHECKPOINT_ATTEMPT_COUNT_MAX: u32 = 5;

/// Buffers for answers that are kept for use again.
pub const ANSWER_BUFFER_KEPT_COUNT: usize = 64;

/// Pause before background work of a node that failed is tried again.
pub const NODE_RETRY_MS: u64 = 30_000;

/// Segments that are kept whatever their age: the loop reads them without waiting.
pub const RECENT_SEGMENT_COUNT: u64 = 2;

/// Records of one delta of a fold, about as many as entries: a longer stretch of the log takes
/// several rounds, each of which writes a whole checkpoint.
pub const FOLD_RECORD_COUNT_MAX: u64 = 1 << 21;

/// Bytes of the log that the replica takes in by one request.
pub const REPLICA_STEP_SIZE: u64 = 4 << 20;

/// Bytes of the log that are worth waking the replica; for less it rests between two steps.
pub const REPLICA_WORTH_SIZE: u64 = 64 << 10;

/// How long the replica rests between two steps while little comes. Audits do not wait for it.
pub const REPLICA_REST_MS: u64 = 10;

/// Lines of closed accounts that are kept before the oldest is used for another account.
pub const CLOSED_COUNT_KEPT: u32 = 1 << 16;

/// Rows of ids at a time. 24 hours and what may lie ahead need 10,600; more are possible only as
/// long as a new log has no horizon.
pub const ID_ROW_COUNT_MAX: u64 = 1 << 14;

/// Beginnings of terms that a registration or a grant carries at most: the newest ones.
pub const TERM_START_COUNT_MAX: u32 = 1_024;

/// Bytes of the text of a refusal at most.
pub const REFUSAL_TEXT_SIZE_MAX: u32 = 400;

/// Rows in one frame of the audit at most.
pub const AUDIT_ROW_COUNT_MAX: u32 = 4_096;

/// Bytes of a log that are read from the device and verified at a time, in the background: a few
/// milliseconds of the disk.
pub const SCRUB_SIZE: u32 = 1 << 20;

/// Time in which all sealed segments of a log are verified once: what rots is found within a day,
/// long before both copies are likely to have rotted.
pub const SCRUB_LAP_MS: u64 = 24 * 60 * 60 * 1_000;

/// Least time between two pieces: the check takes at most 50 MiB a second of the disk.
pub const SCRUB_MS_MIN: u64 = 20;

/// Longest time between two pieces: a small log is verified sooner than within a day.
pub const SCRUB_MS_MAX: u64 = 1_000;

/// Bytes of its log that a node looks through at a time for an id that it does not remember any
/// more: well below a millisecond of its loop.
pub const FIND_PIECE_SIZE: u32 = 1 << 20;

/// Old ids that a node looks for in one pass over its log: every entry is held against each.
pub const FIND_PASS_COUNT_MAX: usize = 64;

/// Bytes of its log that a node looks through at most for one such id: as many as a deadline
/// lasts for. What lies further is `beyond_retention`.
pub const FIND_SEARCH_SIZE_MAX: u64 = 2 << 30;

/// Bytes of what a loop keeps of one connection besides its bytes on their way.
pub const CONNECTION_SIZE_MAX: u64 = 1_024;

/// Bytes of memory of one account: a line of 64 bytes, its places in two indexes, and room of
/// half-filled pages. A test of the ledger holds it.
pub const ACCOUNT_MEMORY_SIZE_MAX: u64 = 100;

/// Bytes of memory of one remembered id: 16 bytes in a page that is at least 7/16 full, and its
/// share of the directory.
pub const ID_MEMORY_SIZE_MAX: u64 = 40;

/// Bytes of memory of one row of ids, however few it has: a page and the least directory.
pub const ID_ROW_MEMORY_SIZE_MAX: u64 = 2_048;

/// Bytes of memory of one operation that a front holds: the operation, its batch, its place in
/// lists and frames, in tables that double.
pub const FRONT_OPERATION_MEMORY_SIZE_MAX: u64 = 1_024;

/// Bytes of memory of one operation that waits on a node for a cold entry.
pub const PARKED_MEMORY_SIZE_MAX: u64 = 1_024;

/// Bytes of memory of one record of a fold's delta: a line of 64 bytes, its id, and the id again in
/// the order of a checkpoint.
pub const FOLD_RECORD_MEMORY_SIZE_MAX: u64 = 128;

const _: () = assert!(usize::BITS == 64);
const _: () = assert!(BATCH_COUNT_MAX * 96 + 64 <= FRAME_SIZE_MAX);
const _: () = assert!(BATCH_COUNT_MAX <= BLOCK_ENTRY_COUNT_MAX);
const _: () = assert!((BLOCK_ENTRY_COUNT_MAX as u64 + 1) * 128 + 4_096 <= SEGMENT_SIZE_MIN);
const _: () = assert!((BLOCK_ENTRY_COUNT_MAX + 1) * 128 + 1_024 <= LINK_FRAME_SIZE_MAX);
// A take-over of everything in one block: epoch and drop entry, an activation of every second slot,
// the same slots in one list for each node, the sums of all currencies.
const _: () = assert!(
    2 + 2 * MOVE_RANGE_COUNT_MAX.div_ceil(24) + NODE_COUNT_MAX + CURRENCY_COUNT_MAX.div_ceil(2)
        <= BLOCK_ENTRY_COUNT_MAX
);
const _: () = assert!(SLOT_COUNT == u16::MAX as u32 + 1);
const _: () = assert!(FETCH_SIZE_MAX + 1_024 <= LINK_FRAME_SIZE_MAX);
const _: () = assert!(STATUS_SIZE_MAX + 1_024 <= FRAME_SIZE_MAX);
const _: () = assert!((BLOCK_ENTRY_COUNT_MAX + 1) * 128 <= FETCH_SIZE_MAX);
