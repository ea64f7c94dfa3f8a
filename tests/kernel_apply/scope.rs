use std::sync::Arc;

use smartnat::apply::Scope;
use smartnat::model::Host;

use crate::bed::{Bed, border, everything, full, members, net, set};
use crate::netns::{in_netns, sh};

#[test]
fn the_border_alone_closes_a_fresh_box_and_touches_no_translation() {
    in_netns(|| async {
        let mut bed = Bed::new();
        let applied = bed.applier.apply(&border(), &Host::default(), Scope::Border).await.unwrap();
        assert_eq!((applied.writes.hooks, applied.writes.sysctls), (5, 1), "{applied:?}");
        assert!(!everything().contains("*nat"));
        assert_eq!(bed.applier.apply(&border(), &Host::default(), Scope::Border).await.unwrap().tool_calls, 0);
    });
}

#[test]
fn after_a_restart_the_border_alone_removes_nothing_of_the_mappings() {
    in_netns(|| async {
        let plane = full();
        Bed::new().apply(&plane).await;
        let before = everything();
        let mut restarted = Bed::new();
        let mut alone = border();
        // The host has changed meanwhile: one more network, one less.
        set(&mut alone, "SN-INNER").members = Arc::new([net("10.0.0.0/24"), net("10.9.0.0/16")].into());
        let applied = restarted.applier.apply(&alone, &Host::default(), Scope::Border).await.unwrap();
        assert_eq!((applied.writes.members, applied.writes.sets, applied.writes.chains), (1, 0, 0), "{applied:?}");
        assert_eq!(members("SN-INNER"), ["10.0.0.0/24", "10.0.1.1", "10.9.0.0/16"]);
        sh("ipset del SN-INNER 10.9.0.0/16");
        assert_eq!(everything(), before);

        let adopted = restarted.refresh(&plane).await;
        assert!(adopted.writes.is_empty() && adopted.repairs.is_empty(), "{adopted:?}");
    });
}

#[test]
fn what_the_border_found_and_did_not_want_goes_with_the_first_full_apply() {
    in_netns(|| async {
        Bed::new().apply(&full()).await;
        let mut restarted = Bed::new();
        restarted.applier.apply(&border(), &Host::default(), Scope::Border).await.unwrap();
        restarted.apply(&border()).await;
        let left = everything();
        assert!(!left.contains("SMARTNAT-M") && !left.contains("SMARTNAT-DNAT") && !left.contains("SN-EP"), "{left}");
        assert!(left.contains("SMARTNAT-BORDER"));
    });
}
