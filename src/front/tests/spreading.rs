//! Balancers over several routers: who gets what, and what happens when one of them dies.

use super::*;
use ResultCode::{Busy, Ok, Unavailable, Unknown};

fn with_routers(roles: Roles, strategy: Strategy, router_count: u32) -> (Rig, Vec<PeerId>) {
    let mut options = options();
    options.roles = roles;
    options.strategy = strategy;
    options.routers = (1..=router_count).map(router_address).collect();
    let mut rig = Rig::new(options);
    rig.turn();
    let backup = rig.accept(BACKUP.parse().unwrap());
    if roles != Roles::Balancer {
        rig.tell_equal_table(backup, 1, 1);
    }
    let routers = (1..=router_count)
        .map(|index| rig.accept(router_address(index)))
        .collect();
    (rig, routers)
}

#[test]
fn a_mere_balancer_passes_whole_batches_on() {
    let (mut rig, routers) = with_routers(Roles::Balancer, Strategy::RoundRobin, 2);
    assert!(rig.is_ready);
    let client = rig.client();
    let batch: Vec<Operation> = (1..=4)
        .map(|n| credit(UserId::new(n).unwrap(), n))
        .collect();
    for request in 1..=4 {
        rig.request(client, request, 1_000, &batch);
    }
    rig.turn();
    for router in routers {
        let asked = rig.asked(router);
        assert_eq!(asked.len(), 2, "one frame for each batch");
        for asked in asked {
            assert_eq!(asked.operations, batch);
            assert_eq!(asked.deadline_ms, 1_000 - 20, "time for the answer");
            rig.answer(router, asked.request, &[(3, Ok), (0, Ok)]);
            rig.answer(router, asked.request, &[(1, Ok), (2, Ok)]);
        }
    }
    assert_eq!(rig.receipts(client).len(), 16);
    assert_eq!(rig.front.flight.batches.count(), 0);
}

#[test]
fn strategies_spread_over_own_and_other_routers() {
    for strategy in [Strategy::Random, Strategy::LeastLoad, Strategy::RoundRobin] {
        let (mut rig, routers) = with_routers(Roles::Both, strategy, 2);
        let node = rig.accept(node_address(1));
        let client = rig.client();
        for id in 1..=600 {
            rig.request(client, 1, 0, &[credit(user_of(1, 1, 0), id)]);
        }
        rig.turn();
        let own = rig.asked_once(node).operations.len();
        let counts = [
            own,
            rig.asked(routers[0]).len(),
            rig.asked(routers[1]).len(),
        ];
        assert_eq!(counts.iter().sum::<usize>(), 600);
        let bound = match strategy {
            Strategy::Random => 150..250,
            Strategy::LeastLoad => 190..210,
            Strategy::RoundRobin => 200..201,
        };
        assert!(
            counts.iter().all(|count| bound.contains(count)),
            "{counts:?}"
        );
    }
}

#[test]
fn a_dead_routers_frames_go_to_another_one() {
    let (mut rig, routers) = with_routers(Roles::Balancer, Strategy::RoundRobin, 2);
    let client = rig.client();
    let batch: Vec<Operation> = (1..=4)
        .map(|n| credit(UserId::new(n).unwrap(), n))
        .collect();
    rig.request(client, 1, 1_000, &batch);
    rig.turn();
    let asked = rig.asked_once(routers[0]);
    rig.answer(routers[0], asked.request, &[(1, Ok)]);
    rig.cut(routers[0]);
    rig.turn();
    let again = rig.asked_once(routers[1]);
    assert_eq!(again.operations, [batch[0], batch[2], batch[3]]);
    rig.answer(routers[1], again.request, &[(0, Ok), (1, Busy), (2, Ok)]);
    assert_eq!(rig.receipts(client), [(1, 1, Ok), (1, 0, Ok), (1, 3, Ok)]);
    // All new frames go to the one that is up.
    for request in 2..=5 {
        rig.request(client, request, 1_000, &batch);
    }
    rig.turn();
    assert_eq!(rig.asked(routers[1]).len(), 4);
    // The last one dies too: what it was asked may be done.
    rig.cut(routers[1]);
    rig.turn();
    rig.request(client, 6, 500, &batch[..1]);
    rig.turn();
    rig.run_ms(1_000);
    let receipts = rig.receipts(client);
    assert!(receipts.contains(&(1, 2, Unknown)));
    assert!(receipts.contains(&(6, 0, Unavailable)));
    assert_eq!(receipts.len(), 1 + 16 + 1);
}

#[test]
fn a_router_that_says_goaway_gets_nothing_new() {
    let (mut rig, routers) = with_routers(Roles::Balancer, Strategy::RoundRobin, 2);
    let client = rig.client();
    let credit = credit(UserId::new(1).unwrap(), 1);
    rig.request(client, 1, 0, &[credit]);
    rig.turn();
    let asked = rig.asked_once(routers[0]);
    rig.feed(routers[0], &Message::Goaway);
    rig.turn();
    for request in 2..=3 {
        rig.request(client, request, 0, &[credit]);
    }
    rig.turn();
    assert!(rig.asked(routers[0]).is_empty());
    assert_eq!(rig.asked(routers[1]).len(), 2);
    rig.answer(routers[0], asked.request, &[(0, Ok)]);
    assert_eq!(rig.receipts(client), [(1, 0, Ok)]);
}

#[test]
fn another_fronts_batch_is_not_handed_on() {
    let (mut rig, routers) = with_routers(Roles::Both, Strategy::RoundRobin, 2);
    let node = rig.accept(node_address(1));
    let balancer = rig.dialler(PeerRole::Front);
    for request in 1..=4_u64 {
        let id = u128::from(request);
        rig.request(balancer, request, 0, &[credit(user_of(1, 1, 0), id)]);
    }
    rig.turn();
    assert_eq!(rig.asked_once(node).operations.len(), 4);
    for router in routers {
        assert!(rig.asked(router).is_empty());
    }
}

#[test]
fn a_mere_balancer_serves_no_fronts_and_a_mere_router_dials_none() {
    let (mut rig, _) = with_routers(Roles::Balancer, Strategy::Random, 1);
    let front = rig.hello(PeerRole::Front, None, (VERSION_MIN, VERSION_MAX));
    assert_eq!(rig.refusal(front).0, RefusalCode::Unexpected);
    let mut options = options();
    options.roles = Roles::Router;
    options.routers = vec![router_address(1)];
    let (mut rig, _, nodes) = Rig::with_nodes(options, 1);
    rig.run_ms(1_000);
    assert!(rig.dials.is_empty());
    for role in [PeerRole::Client, PeerRole::Front] {
        let peer = rig.dialler(role);
        rig.request(peer, 1, 0, &[credit(user_of(1, 1, 0), 1)]);
        rig.turn();
        assert_eq!(rig.asked_once(nodes[0]).operations.len(), 1);
    }
}

#[test]
fn frames_wait_while_every_router_is_full() {
    let mut options = options();
    options.roles = Roles::Balancer;
    options.strategy = Strategy::RoundRobin;
    options.routers = (1..=2).map(router_address).collect();
    let mut rig = Rig::new(options);
    rig.turn();
    rig.accept(BACKUP.parse().unwrap());
    let routers = [1, 2].map(|index| rig.accept_as(router_address(index), cluster(), 1));
    let client = rig.client();
    let credit = credit(UserId::new(1).unwrap(), 1);
    for request in 1..=3 {
        rig.request(client, request, 0, &[credit]);
        rig.turn();
    }
    let first = rig.asked_once(routers[0]);
    rig.asked_once(routers[1]);
    rig.answer(routers[0], first.request, &[(0, Ok)]);
    assert_eq!(rig.asked_once(routers[0]).operations, [credit]);
}
