use std::fs;
use std::os::unix::fs::symlink;

use super::super::directory::{Changed, Directory, Gone, InForce, LoadError, Scan, load_dir};
use super::{BROKEN, Manifests, service, services, starts_with_path};

fn look(directory: &mut Directory) -> Option<Scan> {
    directory.scan(&Changed::Look).unwrap()
}

fn news(directory: &mut Directory) -> Scan {
    look(directory).expect("something is new")
}

/// The one broken file.
fn broken(scan: &Scan) -> (String, InForce) {
    assert_eq!(scan.broken.len(), 1, "{:?}", scan.broken);
    (scan.broken[0].0.to_string(), scan.broken[0].1)
}

#[test]
fn every_manifest_directly_in_the_directory_is_read_and_nothing_else() {
    let dir = Manifests::new();
    dir.write("a.yaml", &service("a"));
    dir.write("b.yml", &service("b"));
    dir.write("c.json", r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "c"}}"#);
    dir.write(".hidden.yaml", BROKEN);
    dir.write("a.yaml~", BROKEN);
    dir.write("README.md", "text");
    fs::create_dir(dir.file("more.yaml")).unwrap();
    fs::write(dir.file("more.yaml").join("d.yaml"), service("d")).unwrap();
    assert_eq!(services(&load_dir(&dir.path).unwrap()), ["a", "b", "c"]);
}

#[test]
fn loading_names_every_broken_file_with_line_and_reason() {
    let dir = Manifests::new();
    dir.write("a.yaml", BROKEN);
    dir.write("b.yaml", &service("b"));
    dir.write("c.json", "{");
    fs::write(dir.file("d.yaml"), b"a: \xff\n").unwrap();
    symlink("/nonexistent", dir.file("e.yaml")).unwrap();
    let LoadError::Broken(files) = load_dir(&dir.path).unwrap_err() else { panic!("the directory can be read") };
    let lines: Vec<_> = files.iter().map(|f| f.to_string()).collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    for (line, (name, part)) in lines.iter().zip([
        ("a.yaml:6:11: ", "abc"),
        ("c.json:1:1: ", "EOF"),
        ("d.yaml: ", "UTF-8"),
        ("e.yaml: ", "read"),
    ]) {
        assert!(starts_with_path(line, &dir.file(name)) && line.contains(part), "{line}");
    }
}

#[test]
fn a_directory_that_is_not_there_is_named() {
    let dir = Manifests::new();
    let error = load_dir(&dir.file("missing")).unwrap_err();
    assert!(matches!(error, LoadError::Directory { .. }));
    assert!(error.to_string().contains("missing"), "{error}");
}

#[test]
fn only_what_changed_is_news() {
    let dir = Manifests::new();
    dir.write("a.yaml", &service("a"));
    let mut directory = Directory::new(dir.path.clone());
    assert_eq!(services(&news(&mut directory).objects), ["a"]);
    assert!(look(&mut directory).is_none());
    dir.write("b.yaml", &service("b"));
    assert_eq!(services(&news(&mut directory).objects), ["a", "b"]);
    dir.remove("a.yaml");
    assert_eq!(services(&news(&mut directory).objects), ["b"]);
    assert!(look(&mut directory).is_none());
}

#[test]
fn the_last_good_content_of_a_broken_file_stays_while_others_change() {
    let dir = Manifests::new();
    dir.write("a.yaml", &service("a"));
    dir.write("b.yaml", &service("b"));
    let mut directory = Directory::new(dir.path.clone());
    news(&mut directory);
    dir.write("a.yaml", BROKEN);
    dir.write("b.yaml", &service("b2"));
    let scan = news(&mut directory);
    assert_eq!(services(&scan.objects), ["a", "b2"]);
    let (text, in_force) = broken(&scan);
    assert!(starts_with_path(&text, &dir.file("a.yaml:6:11: ")), "{text}");
    assert_eq!(in_force, InForce::LastGood);

    dir.remove("a.yaml");
    let scan = news(&mut directory);
    assert_eq!((services(&scan.objects), scan.broken.len()), (vec!["b2"], 0));
}

#[test]
fn a_file_that_never_was_good_gives_nothing() {
    let dir = Manifests::new();
    dir.write("a.yaml", BROKEN);
    dir.write("b.yaml", &service("b"));
    let scan = news(&mut Directory::new(dir.path.clone()));
    assert_eq!(services(&scan.objects), ["b"]);
    assert_eq!(broken(&scan).1, InForce::Nothing);
}

#[test]
fn an_object_in_two_files_breaks_the_later_one_and_names_both() {
    let dir = Manifests::new();
    dir.write("a.yaml", &service("a"));
    dir.write("b.yaml", &service("b"));
    let mut directory = Directory::new(dir.path.clone());
    news(&mut directory);

    dir.write("b.yaml", &format!("{}---\n{}", service("a"), service("c")));
    let scan = news(&mut directory);
    // What b.yaml said before stays.
    assert_eq!(services(&scan.objects), ["a", "b"]);
    let (text, in_force) = broken(&scan);
    assert!(starts_with_path(&text, &dir.file("b.yaml")), "{text}");
    assert!(text.contains("Service default/a") && text.contains(&dir.file("a.yaml").display().to_string()), "{text}");
    assert_eq!(in_force, InForce::LastGood);

    // Once the earlier file lets go of it, the later one is good as it is.
    dir.write("a.yaml", "# moved to b.yaml\n");
    let scan = news(&mut directory);
    assert_eq!((services(&scan.objects), scan.broken.len()), (vec!["a", "c"], 0));
}

#[test]
fn an_earlier_file_may_take_an_object_over_and_the_rest_of_the_later_one_stays() {
    let dir = Manifests::new();
    dir.write("b.yaml", &format!("{}---\n{}", service("a"), service("b")));
    let mut directory = Directory::new(dir.path.clone());
    news(&mut directory);
    dir.write("a.yaml", &service("a").replace("10.96.0.10", "10.96.0.11"));
    let scan = news(&mut directory);
    assert_eq!(services(&scan.objects), ["a", "b"]);
    let service = &scan.objects.services.first_key_value().unwrap().1;
    assert_eq!(service.cluster_ips, ["10.96.0.11".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(broken(&scan).1, InForce::LastGood);
}

#[test]
fn a_renamed_file_keeps_its_objects() {
    let dir = Manifests::new();
    dir.write("z.yaml", &service("a"));
    let mut directory = Directory::new(dir.path.clone());
    news(&mut directory);
    fs::rename(dir.file("z.yaml"), dir.file("a.yaml")).unwrap();
    let scan = news(&mut directory);
    assert_eq!((services(&scan.objects), scan.broken.len()), (vec!["a"], 0));
}

#[test]
fn a_directory_whose_files_were_deleted_one_by_one_is_empty() {
    let dir = Manifests::new();
    dir.write("a.yaml", &service("a"));
    let mut directory = Directory::new(dir.path.clone());
    news(&mut directory);
    dir.remove("a.yaml");
    assert_eq!(services(&news(&mut directory).objects), [""; 0]);
}

#[test]
fn a_directory_that_is_gone_or_replaced_by_an_empty_one_takes_nothing_away() {
    let dir = Manifests::new();
    dir.write("a.yaml", &service("a"));
    let mut directory = Directory::new(dir.path.clone());
    news(&mut directory);
    let all = Changed::Look;

    fs::rename(&dir.path, dir.aside()).unwrap();
    assert!(matches!(directory.scan(&all), Err(Gone::Unreadable(_))));
    fs::create_dir(&dir.path).unwrap();
    assert!(matches!(directory.scan(&all), Err(Gone::Emptied)));
    assert!(matches!(directory.scan(&all), Err(Gone::Emptied)), "it stays so");

    fs::remove_dir(&dir.path).unwrap();
    fs::rename(dir.aside(), &dir.path).unwrap();
    assert_eq!(services(&news(&mut directory).objects), ["a"]);
}

#[test]
fn a_directory_replaced_by_one_with_manifests_is_taken_as_it_is() {
    let dir = Manifests::new();
    dir.write("a.yaml", &service("a"));
    let mut directory = Directory::new(dir.path.clone());
    news(&mut directory);
    fs::rename(&dir.path, dir.aside()).unwrap();
    fs::create_dir(&dir.path).unwrap();
    dir.write("b.yaml", &service("b"));
    assert_eq!(services(&news(&mut directory).objects), ["b"]);
}

/// Where inode numbers are used again and birth times are unknown, the event of the deletion tells.
#[test]
fn a_directory_known_to_be_replaced_may_not_be_empty() {
    let dir = Manifests::new();
    dir.write("a.yaml", &service("a"));
    let mut directory = Directory::new(dir.path.clone());
    news(&mut directory);
    dir.remove("a.yaml");
    directory.was_replaced();
    assert!(matches!(directory.scan(&Changed::All), Err(Gone::Emptied)));
    dir.write("a.yaml", &service("a"));
    assert_eq!(services(&news(&mut directory).objects), ["a"]);
    dir.remove("a.yaml");
    assert_eq!(services(&news(&mut directory).objects), [""; 0]);
}

/// As kubelet lays out a ConfigMap volume: links through a hidden one that is swapped.
#[test]
fn a_swapped_link_below_the_files_is_noticed() {
    let dir = Manifests::new();
    for (version, name) in [("..1", "a"), ("..2", "b")] {
        fs::create_dir(dir.file(version)).unwrap();
        fs::write(dir.file(version).join("x.yaml"), service(name)).unwrap();
    }
    symlink("..1", dir.file("..data")).unwrap();
    symlink("..data/x.yaml", dir.file("x.yaml")).unwrap();
    let mut directory = Directory::new(dir.path.clone());
    assert_eq!(services(&news(&mut directory).objects), ["a"]);
    symlink("..2", dir.file("..next")).unwrap();
    fs::rename(dir.file("..next"), dir.file("..data")).unwrap();
    assert_eq!(services(&news(&mut directory).objects), ["b"]);
}

fn named(directory: &mut Directory, name: &str) -> Option<Scan> {
    directory.scan(&Changed::Names([name.into()].into())).unwrap()
}

#[test]
fn of_thousands_only_the_file_that_was_named_is_read_again() {
    let dir = Manifests::new();
    dir.write("a.yaml", &service("a"));
    dir.write("b.yaml", &service("b"));
    let mut directory = Directory::new(dir.path.clone());
    let before = news(&mut directory).objects;
    dir.write("a.yaml", &service("a2"));
    dir.write("b.yaml", &service("b2"));
    let scan = named(&mut directory, "a.yaml").expect("it changed");
    assert_eq!(services(&scan.objects), ["a2", "b"]);
    assert_eq!(services(&before), ["a", "b"], "what was delivered stays");
    assert_eq!(services(&news(&mut directory).objects), ["a2", "b2"], "a look finds the other");
    dir.remove("a.yaml");
    assert_eq!(services(&named(&mut directory, "a.yaml").unwrap().objects), ["b2"]);
    dir.write("c.yaml", &service("c"));
    assert_eq!(services(&named(&mut directory, "c.yaml").unwrap().objects), ["b2", "c"]);
    assert!(named(&mut directory, "c.yaml~").is_none());
}

#[test]
fn a_file_written_anew_with_the_same_objects_is_the_same_set() {
    let dir = Manifests::new();
    dir.write("a.yaml", &service("a"));
    let mut directory = Directory::new(dir.path.clone());
    let before = news(&mut directory).objects;
    dir.write("a.yaml", &format!("# a comment\n{}", service("a")));
    assert!(std::sync::Arc::ptr_eq(&before, &named(&mut directory, "a.yaml").unwrap().objects));
}

#[test]
fn looking_without_a_reason_costs_little_and_finds_what_links_lead_to_and_what_the_directory_tells() {
    let dir = Manifests::new();
    fs::create_dir(dir.aside()).unwrap();
    fs::write(dir.aside().join("x"), service("a")).unwrap();
    symlink(dir.aside().join("x"), dir.file("x.yaml")).unwrap();
    dir.write("b.yaml", &service("b"));
    let mut directory = Directory::new(dir.path.clone());
    news(&mut directory);
    let mut unasked = || directory.scan(&Changed::Nothing).unwrap();
    assert!(unasked().is_none());
    fs::write(dir.aside().join("x"), service("a2")).unwrap();
    assert_eq!(services(&unasked().unwrap().objects), ["a2", "b"]);
    dir.write("c.yaml", &service("c"));
    assert_eq!(services(&unasked().unwrap().objects), ["a2", "b", "c"]);
    assert!(unasked().is_none());
}

/// What is exchanged and what is put together anew are the same, whatever files say one after the other.
#[test]
fn files_that_change_in_any_order_give_what_a_look_at_all_of_them_gives() {
    let dir = Manifests::new();
    let mut directory = Directory::new(dir.path.clone());
    news(&mut directory);
    let mut random = 7_u64;
    let mut pick = |n: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % n
    };
    let (mut whole, mut contradicted) = (0, 0);
    for _ in 0..400 {
        let names: Vec<String> = (0..=pick(2)).map(|_| format!("{}.yaml", pick(4))).collect();
        for name in &names {
            match pick(8) {
                0 => dir.write(name, BROKEN),
                1 => _ = fs::remove_file(dir.file(name)),
                _ => {
                    let objects: Vec<String> = (0..=pick(3))
                        .map(|_| service(&format!("s{}", pick(12))))
                        .collect::<std::collections::BTreeSet<_>>()
                        .into_iter()
                        .collect();
                    dir.write(name, &objects.join("---\n"));
                }
            }
        }
        let changed = Changed::Names(names.iter().map(Into::into).collect());
        let Some(scan) = directory.scan(&changed).unwrap() else { continue };
        let again = directory.combine();
        assert_eq!((services(&scan.objects), &scan.broken), (services(&again.objects), &again.broken));
        assert_eq!(scan.objects, again.objects);
        whole += usize::from(scan.broken.is_empty());
        contradicted += usize::from(scan.broken.iter().any(|(file, _)| file.reason.contains("stands in")));
    }
    assert!(whole > 40 && contradicted > 40, "{whole} {contradicted}");
}
