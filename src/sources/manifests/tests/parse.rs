use super::super::parse::{Content, Fault, Format, parse};
use super::{BROKEN, service, services};
use crate::api::{MappingPort, ServicePortRef};
use crate::model::ObjectKey;

fn yaml(text: &str) -> Result<Content, Fault> {
    parse(Format::Yaml, text)
}

fn json(text: &str) -> Result<Content, Fault> {
    parse(Format::Json, text)
}

/// The place of a fault as (line, column) and its reason.
fn fault(result: Result<Content, Fault>) -> ((usize, usize), String) {
    let fault = result.unwrap_err();
    let position = fault.position.expect("the fault has a place");
    ((position.line, position.column), fault.reason)
}

#[test]
fn a_mapping_is_read_with_all_its_forms() {
    let content = yaml(
        r#"
# The kind stands last, as in sorted output.
spec:
  addresses: ["203.0.113.10"]
  allowedSources: ["192.0.2.0/24", 198.51.100.7]
  ports:
  - port: 80
  - {port: 53, protocol: UDP, servicePort: dns}
  - {port: 81, servicePort: "8080"}
  - {port: 82, servicePort: 8080}
  serviceName: web
metadata: {name: web, namespace: shop, creationTimestamp: "2026-01-02T03:04:05Z", generation: 4}
status: {invalid: "no"}
kind: Mapping
apiVersion: smartnat.aureacentral.com/v1alpha1
"#,
    )
    .unwrap();
    let mapping = &content.objects.mappings[&ObjectKey::new("shop", "web")];
    assert_eq!(mapping.created, Some(1_767_323_045));
    assert_eq!(mapping.generation, Some(4));
    assert_eq!(mapping.spec.allowed_sources, ["192.0.2.0/24", "198.51.100.7"]);
    assert_eq!(mapping.spec.mode, None);
    let service_ports: Vec<_> = mapping.spec.ports.iter().map(|p| p.service_port.clone()).collect();
    assert_eq!(
        service_ports,
        [
            None,
            Some(ServicePortRef::Name("dns".to_owned())),
            Some(ServicePortRef::Name("8080".to_owned())),
            Some(ServicePortRef::Number(8080))
        ]
    );
    assert_eq!(mapping.spec.ports[0], MappingPort { port: Some(80), service_port: None, protocol: None });
}

#[test]
fn a_stream_of_documents_and_lists_is_read_whole() {
    let text = format!(
        "# comment\n---\n{}---\n# nothing here\n---\n\n---\napiVersion: v1\nitems:\n- apiVersion: v1\n  kind: Service\n  \
         metadata: {{name: b}}\n- {{apiVersion: v1, kind: Secret, data: {{a: b}}}}\nkind: List\n...\n--- # the last\n{}",
        service("a"),
        service("c")
    );
    let content = yaml(&text).unwrap();
    assert_eq!(services(&content.objects), ["a", "b", "c"]);
    assert_eq!(content.ignored.into_iter().collect::<Vec<_>>(), [("Secret (v1)".to_owned(), 1)]);
}

#[test]
fn directives_belong_to_the_document_behind_them() {
    let (a, b) = (service("a"), service("b"));
    let tag = "%TAG !k! tag:yaml.org,2002:\n";
    let streams = [
        format!("%YAML 1.2\n---\n{a}---\n{b}"),
        format!("\u{feff}%YAML 1.2\n---\n{a}...\n%YAML 1.2\n---\n{b}"),
        format!(
            "# first a comment\n\n%YAML 1.2 # and one behind\n# between\n{tag}---\n{a}...\n# end\n{tag}---\n{b}...\n"
        ),
        format!("%YAML 1.2\r\n---\r\n{}...\r\n{}", a.replace('\n', "\r\n"), b.replace('\n', "\r\n")),
        format!("%YAML 1.1\n--- # the first\n{a}... # its end\n{b}"),
        format!("...\n%YAML 1.2\n---\n...\n%YAML 1.2\n---\n{a}---\n# nothing\n---\n{b}"),
    ];
    for text in streams {
        let content = yaml(&text).unwrap_or_else(|e| panic!("{e:?} in {text}"));
        assert_eq!(services(&content.objects), ["a", "b"], "{text}");
    }
    // A text may hold lines that begin with a percent sign.
    let text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  annotations: {x: 'one\n\n%two'}\n";
    assert_eq!(services(&yaml(text).unwrap().objects), ["a"]);
    // Faults keep their place.
    for (text, line) in
        [("%YAML 1.2\n---\nkind: [\n", 3..=4), ("# x\n%YAML 1.2\n---\na: b\n", 1..=2), ("%YAML 1.2\n", 1..=2)]
    {
        let fault = yaml(text).unwrap_err();
        let at = fault.position.map(|p| p.line);
        assert!(at.is_some_and(|at| line.contains(&at)), "{fault:?} of {text}");
    }
}

#[test]
fn a_separator_inside_a_block_text_ends_it_only_at_the_first_column() {
    let text =
        format!("apiVersion: v1\nkind: ConfigMap\ndata:\n  text: |\n    one\n    ---\n    two\n---\n{}", service("a"));
    assert_eq!(services(&yaml(&text).unwrap().objects), ["a"]);
}

#[test]
fn an_empty_list_is_fine() {
    for text in ["apiVersion: v1\nkind: List\nitems: []\n", "apiVersion: v1\nkind: List\nitems:\n"] {
        assert_eq!(yaml(text).unwrap(), Content::default());
    }
}

#[test]
fn kinds_of_the_same_name_in_other_groups_are_ignored() {
    let content = yaml(
        "apiVersion: getambassador.io/v2\nkind: Mapping\nmetadata: {name: a}\nspec: {prefix: /}\n---\napiVersion: \
         serving.knative.dev/v1\nkind: Service\nmetadata: {name: a}\nspec: {template: {}}\n",
    )
    .unwrap();
    assert_eq!(content.objects, Default::default());
    assert_eq!(content.ignored.len(), 2);
}

#[test]
fn json_is_read_too() {
    let item = r#"{"kind": "Service", "apiVersion": "v1", "metadata": {"name": "a"}}"#;
    assert_eq!(services(&json(item).unwrap().objects), ["a"]);
    let list = format!(r#"{{"items": [{item}], "kind": "List", "apiVersion": "v1"}}"#);
    assert_eq!(services(&json(&list).unwrap().objects), ["a"]);
}

#[test]
fn a_value_of_the_wrong_type_is_named_with_its_place() {
    let (place, reason) = fault(yaml(&format!("{}---\n{BROKEN}", service("a"))));
    assert_eq!(place, (11, 11));
    assert!(reason.ends_with("in: - port: abc"), "{reason}");

    let (place, reason) =
        fault(json("{\"kind\": \"Service\", \"apiVersion\": \"v1\",\n\"spec\": {\"ports\": [{\"port\": \"abc\"}]}}"));
    assert_eq!(place, (2, 33));
    assert!(reason.contains("\"abc\"") && !reason.contains("line"), "{reason}");
}

#[test]
fn an_item_of_a_list_that_does_not_fit_is_named_with_its_place() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: a}\n  spec:\n    ports: {}\n";
    assert_eq!(fault(yaml(text)).0, (8, 12));
}

#[test]
fn bad_yaml_and_bad_json_are_named_with_their_place() {
    let (place, _) = fault(yaml("apiVersion: v1\nkind: Service\nmetadata: {name: a\nspec: {}\n"));
    assert_eq!(place.0, 4);
    let (place, _) = fault(json("{\"kind\": \"Service\"\n\"apiVersion\": \"v1\"}"));
    assert_eq!(place, (2, 1));
    let (place, reason) = fault(yaml("apiVersion: v1\nkind: Service\nkind: Service\n"));
    assert_eq!(place.0, 3);
    assert!(reason.contains("duplicate"), "{reason}");
}

/// `allowedSource` instead of `allowedSources` would let everyone in.
#[test]
fn an_unknown_field_of_a_mapping_is_an_error() {
    let text = "apiVersion: smartnat.aureacentral.com/v1alpha1\nkind: Mapping\nmetadata: {name: a}\nspec:\n  addresses: [\
                203.0.113.10]\n  allowedSource: [192.0.2.0/24]\n  serviceName: web\n  ports: [{port: 80}]\n";
    let (place, reason) = fault(yaml(text));
    assert_eq!(place, (6, 3));
    assert!(reason.contains("allowedSource"), "{reason}");
    let text = text.replace("  allowedSource: [192.0.2.0/24]\n", "").replace("port: 80", "port: 80, targetPort: 8080");
    assert!(fault(yaml(&text)).1.contains("targetPort"));
}

#[test]
fn what_is_no_object_is_an_error() {
    for text in ["- a\n- b\n", "just text\n", "a: b\n", "kind: Service\n", "kind: 7\napiVersion: v1\n"] {
        let result = yaml(text);
        assert!(result.is_err(), "{text:?} was read as {result:?}");
    }
    assert!(fault(yaml("kind: Service\n")).1.contains("apiVersion"));
}

#[test]
fn an_object_needs_a_name_and_may_stand_once() {
    let (place, reason) = fault(yaml(&format!("{}---\napiVersion: v1\nkind: Service\nmetadata: {{}}\n", service("a"))));
    assert_eq!(place.0, 5);
    assert!(reason.contains("metadata.name"), "{reason}");
    let (place, reason) = fault(yaml(&format!("{0}---\n{0}", service("a"))));
    assert_eq!(place.0, 5);
    assert!(reason.contains("Service default/a") && reason.contains("twice"), "{reason}");
}

#[test]
fn other_versions_and_typed_lists_are_errors_that_say_what_to_write() {
    let (_, reason) = fault(yaml("apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\n"));
    assert!(reason.contains("discovery.k8s.io/v1 "), "{reason}");
    let (_, reason) = fault(yaml("apiVersion: smartnat.aureacentral.com/v1alpha1\nkind: MappingList\nitems: []\n"));
    assert!(reason.contains("kind List"), "{reason}");
}

#[test]
fn an_unquoted_number_or_boolean_is_no_string() {
    for name in ["12", "no", "true"] {
        let text = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n");
        assert!(yaml(&text).is_err(), "{name} was taken as a name");
        let text = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: \"{name}\"}}\n");
        assert_eq!(services(&yaml(&text).unwrap().objects), [name]);
    }
}

#[test]
fn an_empty_file_is_broken_but_one_of_comments_is_not() {
    for text in ["", "\n \n"] {
        assert!(yaml(text).unwrap_err().reason.contains("empty"));
        assert!(json(text).unwrap_err().reason.contains("empty"));
    }
    assert_eq!(yaml("# nothing for now\n").unwrap(), Content::default());
}

#[test]
fn what_is_dropped_from_an_object_is_told_with_its_name() {
    let content = yaml(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: web-1, labels: {kubernetes.io/service-name: \
         web}}\naddressType: FQDN\nendpoints: [{addresses: [pod.example.com]}]\n---\napiVersion: \
         discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: nobodys}\naddressType: IPv4\nendpoints:\n",
    )
    .unwrap();
    assert_eq!(content.objects.slices.len(), 1);
    assert_eq!(content.dropped.len(), 2);
    assert!(content.dropped[0].starts_with("EndpointSlice default/web-1: "), "{:?}", content.dropped);
}

/// Beyond the default limits of the parser: 250,000 nodes, 1,024 documents.
#[test]
fn a_large_file_meets_no_limit() {
    let numbers = vec!["1"; 300_000].join(", ");
    let large = format!("apiVersion: v1\nkind: ConfigMap\ndata: [{numbers}]\n");
    assert_eq!(yaml(&large).unwrap().ignored.len(), 1);
    let stream: String = (0..1_100).map(|i| format!("---\n{}", service(&format!("s{i}")))).collect();
    assert_eq!(yaml(&stream).unwrap().objects.services.len(), 1_100);
}

#[test]
fn aliases_that_multiply_are_refused() {
    let mut text = "apiVersion: v1\nkind: Bomb\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..9 {
        let all = vec![format!("*a{}", i - 1); 10].join(", ");
        text.push_str(&format!("a{i}: &a{i} [{all}]\n"));
    }
    assert!(yaml(&text).is_err());
}

#[test]
fn names_that_kubernetes_would_not_take_break_the_file() {
    for name in ["Web", "a b", "web-", "a..b", "x\\n-A PREROUTING -j ACCEPT", "quo\\\"te", &"a".repeat(254)] {
        let text = format!("{{\"apiVersion\": \"v1\", \"kind\": \"Service\", \"metadata\": {{\"name\": \"{name}\"}}}}");
        assert!(json(&text).unwrap_err().reason.contains("names are lower case letters"), "{name}");
    }
    let longest = format!("{}.b", "a".repeat(251));
    json(&format!(r#"{{"apiVersion": "v1", "kind": "Service", "metadata": {{"name": "{longest}"}}}}"#)).unwrap();
}
