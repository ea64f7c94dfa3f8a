//! A Mapping's life in the API: what is written when, and that nothing is written without need.

use bed::Bed;

use crate::support::{FINALIZER, Lab, assert_dropped, assert_served, condition, entry, web};

#[test]
fn a_mapping_is_served_says_so_and_is_gone_with_its_rules_when_it_is_deleted() {
    let lab = Lab::new();
    let _daemon = lab.daemon().start();
    lab.put(&web("web", &[Bed::EXT1, Bed::EXT2]));
    let mapping = lab.await_programmed("web");
    assert_served(&lab.bed.client1, Bed::EXT1);
    assert_served(&lab.bed.client2, Bed::EXT2);

    assert_eq!(mapping["metadata"]["finalizers"], serde_json::json!([FINALIZER]));
    let status = &mapping["status"];
    assert_eq!(status["invalid"], "no");
    assert_eq!(status["serviceVIP"], "10.96.0.10");
    let pods = serde_json::json!({"podIPs": [Bed::POD1, Bed::POD2]});
    assert_eq!(status["configuredAddresses"], serde_json::json!({"203.0.113.10": pods, "198.51.100.10": pods}));
    assert_eq!(status["observedGeneration"], 1);
    assert_eq!(condition(&mapping, "Accepted")["status"], "True");
    assert_eq!(entry(&mapping, "border")["programmed"], true);
    let table = lab.control.kubectl(&["get", "mappings"]);
    assert!(table.contains("203.0.113.10"), "{table}");

    lab.delete("web");
    lab.await_gone("web");
    assert_dropped(&lab.bed.client1, Bed::EXT1);
    assert_dropped(&lab.bed.client2, Bed::EXT2);
}

#[test]
fn a_younger_mapping_is_refused_and_told_who_holds_its_endpoint_until_that_one_goes() {
    let lab = Lab::new();
    let mut daemon = lab.daemon().start();
    lab.put(&web("old", &[Bed::EXT1]));
    lab.await_programmed("old");
    // Also by a daemon that knows the older one from the API alone.
    daemon.kill();
    daemon.start_again();
    lab.put(&web("young", &[Bed::EXT1, Bed::EXT2]));
    let refused = lab.await_mapping("young", "it is refused", |m| condition(m, "Accepted")["status"] == "False");
    assert_eq!(condition(&refused, "Programmed")["reason"], "Conflict");
    let told = refused["status"]["invalid"].as_str().unwrap();
    assert!(told.contains("203.0.113.10:80/tcp is held by the older Mapping default/old"), "{told}");
    assert_eq!(refused["metadata"]["finalizers"], serde_json::Value::Null);
    assert_dropped(&lab.bed.client2, Bed::EXT2);
    lab.delete("old");
    lab.await_programmed("young");
    assert_served(&lab.bed.client2, Bed::EXT2);
}
