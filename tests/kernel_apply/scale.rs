use std::time::Instant;

use smartnat::ruleset::{Match, Ports, Rule, Target};

use crate::bed::{Bed, full, ip, mapping_chain, nat};
use crate::netns::in_netns;

#[test]
fn a_thousand_mappings_are_one_restore_and_one_of_them_another() {
    in_netns(|| async {
        let mut plane = full();
        let rules = nat(&mut plane);
        let tcp = smartnat::model::Protocol::Tcp;
        for i in 0..1000 {
            let mut chain = mapping_chain(80, "10.244.1.2");
            chain.push(Rule::new(
                [Match::Protocol(tcp), Match::DestinationPort(tcp, Ports::one(i + 1))],
                Target::Dnat((ip("10.244.1.3"), i + 1).into()),
            ));
            rules.add(&format!("SMARTNAT-M-{i:04}"), chain);
        }
        let mut bed = Bed::new();
        let timed = |label: &str, since: Instant| println!("{label}: {:?}", since.elapsed());
        let start = Instant::now();
        assert_eq!(bed.apply(&plane).await.writes.chains, 1000 + 3 + 5);
        timed("first apply of 1,000 chains of 4 rules", start);
        let first = start.elapsed();

        nat(&mut plane).add("SMARTNAT-M-0500", mapping_chain(82, "10.244.1.9"));
        let start = Instant::now();
        let applied = bed.apply(&plane).await;
        timed("one chain changed", start);
        assert_eq!((applied.tool_calls, applied.writes.chains), (1, 1));

        let start = Instant::now();
        assert_eq!(bed.apply(&plane).await.tool_calls, 0);
        timed("unchanged", start);

        let start = Instant::now();
        assert!(bed.refresh(&plane).await.writes.is_empty());
        timed("refresh", start);
        // It reads about what the first one wrote, on the same machine.
        assert!(start.elapsed() < first * 10, "a refresh is linear");
    });
}
