//! Through which proxy the API server is asked: what the environment's variables say, and the kubeconfig before them.

use std::io::{BufRead, BufReader, Write, copy};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bed::{Bed, Daemon, Namespace};
use serde_json::{Value, json};

use crate::source::await_current;
use crate::support::{Lab, PATIENCE, web};

/// A proxy that knows CONNECT, in a namespace; counts the tunnels that it made.
struct Proxy {
    url: String,
    tunnels: Arc<AtomicUsize>,
}

impl Proxy {
    fn in_namespace(namespace: &Namespace) -> Self {
        let tunnels = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&tunnels);
        let port = namespace.within(move || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            // Until the test's process ends.
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let count = Arc::clone(&count);
                    thread::spawn(move || tunnel(stream, &count));
                }
            });
            port
        });
        Proxy { url: format!("http://user:secret@127.0.0.1:{port}"), tunnels }
    }

    fn tunnels(&self) -> usize {
        self.tunnels.load(Ordering::SeqCst)
    }
}

/// Reads a request to connect, and copies both ways.
fn tunnel(mut client: TcpStream, count: &AtomicUsize) -> Option<()> {
    let mut lines = BufReader::new(client.try_clone().ok()?).lines();
    let request = lines.next()?.ok()?;
    let target = request.strip_prefix("CONNECT ")?.split(' ').next()?.to_owned();
    let headers: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    // "user:secret"
    assert!(headers.iter().any(|h| h.to_lowercase() == "proxy-authorization: basic dxnlcjpzzwnyzxq="), "{headers:?}");
    let mut server = TcpStream::connect(target).ok()?;
    count.fetch_add(1, Ordering::SeqCst);
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
    let (mut from_server, mut to_client) = (server.try_clone().ok()?, client.try_clone().ok()?);
    thread::spawn(move || {
        _ = copy(&mut from_server, &mut to_client);
        _ = to_client.shutdown(std::net::Shutdown::Both);
    });
    _ = copy(&mut client, &mut server);
    _ = server.shutdown(std::net::Shutdown::Both);
    Some(())
}

#[track_caller]
fn assert_works(lab: &Lab, mut daemon: Daemon<'_>, told: &str) {
    daemon.start_again();
    await_current(&daemon, PATIENCE);
    lab.put(&web("web", &[Bed::EXT1]));
    lab.await_programmed("web");
    lab.delete("web");
    lab.await_gone("web");
    let check = String::from_utf8(daemon.command(&["check"]).stdout).unwrap();
    assert!(check.contains(told) && !check.contains("secret"), "{told} is not in\n{check}");
    assert!(!daemon.log().contains("secret"), "{}", daemon.log());
    daemon.kill();
}

#[test]
fn the_api_is_asked_through_the_proxy_that_is_named_unless_it_is_excepted() {
    let lab = Lab::new();
    let proxy = Proxy::in_namespace(&lab.bed.border);
    for (variable, excepted) in [("https_proxy", "localhost, 10.0.0.0/8,"), ("ALL_PROXY", "*")] {
        let daemon = lab.daemon().set(variable, &proxy.url).set("no_proxy", excepted);
        assert_works(&lab, daemon, &format!("without a proxy ({variable} is set, but no_proxy excepts 10.0.9.2)"));
        assert_eq!(proxy.tunnels(), 0, "{variable} {excepted}");
    }
    let before = proxy.tunnels();
    let daemon = lab.daemon().set("HTTPS_PROXY", &proxy.url).set("NO_PROXY", "127.0.0.1,10.0.9.3,10.0.9.2:443");
    assert_works(
        &lab,
        daemon,
        &format!("the proxy http://{} (HTTPS_PROXY)", &proxy.url["http://user:secret@".len()..]),
    );
    assert!(proxy.tunnels() > before);

    // The kubeconfig's own proxy holds against every exception.
    let file = lab.control.kubeconfig_for("smartnat-manager");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    config["clusters"][0]["cluster"]["proxy-url"] = json!(proxy.url);
    std::fs::write(&file, config.to_string()).unwrap();
    let before = proxy.tunnels();
    let daemon = lab.daemon_with(&file).set("HTTPS_PROXY", "http://127.0.0.1:1").set("NO_PROXY", "*");
    assert_works(&lab, daemon, "(proxy-url in the kubeconfig)");
    assert!(proxy.tunnels() > before);
}

#[test]
fn a_proxy_that_is_none_is_named() {
    let lab = Lab::new();
    let daemon = lab.daemon().set("HTTPS_PROXY", "gopher://user:secret@proxy");
    let output = daemon.command(&["check"]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("HTTPS_PROXY holds no URL of a proxy") && !told.contains("secret"), "{told}");
    assert_eq!(output.status.code(), Some(3));
}
