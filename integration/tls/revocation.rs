//! Certificates that their authority has taken back: by lists that `openssl ca` makes, toward clients and
//! toward nodes, with libpq's own `sslcrl` beside Causeway's judgement of nodes.

use std::path::{Path, PathBuf};
use std::process::Command;

use causeway::cli::demo::cluster::{APP, Cluster, ClusterOptions};
use causeway::config::settings::{Address, NodeTls, NodeTlsMode};
use causeway::tls::{Connector, TlsError};

use super::nodes::{log_in, look, offer};
use super::{connector, directory, over_tls, psql, section, session, start};
use crate::certificates::Identity;
use crate::harness::{Proxy, ProxyOptions, await_until};

/// An authority that `openssl ca` keeps the books of.
struct Authority {
    directory: PathBuf,
}

const OPENSSL_CNF: &str = "\
[ca]
default_ca = books
[books]
dir = .
database = index.txt
serial = serial
new_certs_dir = .
certificate = ca.crt
private_key = ca.key
default_md = sha256
default_days = 3650
default_crl_days = 30
policy = policy
unique_subject = no
copy_extensions = copy
x509_extensions = leaf
[policy]
commonName = supplied
[leaf]
basicConstraints = CA:FALSE
[crl]
authorityKeyIdentifier = keyid
";

impl Authority {
    fn new(directory: &Path, name: &str) -> Self {
        std::fs::create_dir_all(directory).unwrap();
        let authority = Self { directory: directory.to_owned() };
        for (name, text) in [("openssl.cnf", OPENSSL_CNF), ("index.txt", ""), ("serial", "01\n")] {
            std::fs::write(authority.path(name), text).unwrap();
        }
        authority.openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca.key -out ca.crt \
             -days 3650 -subj /CN={name} -addext keyUsage=critical,keyCertSign,cRLSign"
        ));
        authority
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn openssl(&self, words: &str) {
        let mut command = Command::new("openssl");
        let output = command.args(words.split(' ')).current_dir(&self.directory).output().unwrap();
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn sign(&self, file: &str, common_name: &str, extension: &str) -> Identity {
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {file}.key \
             -out {file}.csr -subj /CN={common_name} -addext {extension}"
        ));
        self.openssl(&format!(
            "ca -config openssl.cnf -batch -notext -in {file}.csr -out {file}.crt"
        ));
        let identity = Identity {
            certificate: self.path(&format!("{file}.crt")),
            key: self.path(&format!("{file}.key")),
        };
        set_private(&identity.key);
        identity
    }

    fn revoke(&self, file: &str) {
        self.openssl(&format!("ca -config openssl.cnf -batch -revoke {file}.crt"));
    }

    /// Writes what is revoked so far.
    fn publish(&self, file: &str, words: &str) -> PathBuf {
        let path = self.path(file);
        self.openssl(&format!("ca -config openssl.cnf -gencrl -out {} {words}", path.display()));
        path
    }
}

/// libpq takes no key that others may read.
fn set_private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Of version 2, as all of today's are.
const V2: &str = "-crlexts crl";
const OVER: &str = "-crlexts crl -crl_lastupdate 20200101000000Z -crl_nextupdate 20200201000000Z";

#[tokio::test(flavor = "multi_thread")]
async fn clients_whose_certificate_was_revoked_stay_out_from_the_next_reload() {
    let authority = Authority::new(&directory(), "authority");
    let other = Authority::new(&directory(), "other");
    let served = authority.sign("server", "localhost", "subjectAltName=DNS:localhost");
    let [one, two] =
        ["one", "two"].map(|file| authority.sign(file, "app", "extendedKeyUsage=clientAuth"));
    let crl = authority.publish("clients.crl", V2);
    let more = format!(
        "client_root = \"{}\"\nclient_crl = \"{}\"",
        authority.path("ca.crt").display(),
        crl.display()
    );
    let proxy = start(section("verify-full", &served, &more)).await;
    let enters = async |identity: &Identity| {
        let (certificate, key) = (identity.certificate.display(), identity.key.display());
        psql(
            proxy.address,
            "localhost",
            &format!("sslmode=require sslcert={certificate} sslkey={key}"),
        )
        .await
    };
    enters(&one).await.expect("nobody is revoked yet");
    enters(&two).await.expect("nobody is revoked yet");
    let trusting = connector(NodeTlsMode::VerifyFull, Some(&authority.path("ca.crt")), Some(&one));
    let (kept, _) = session(&over_tls(&proxy, "app"), trusting).await.unwrap();

    authority.revoke("one");
    authority.publish("clients.crl", V2);
    enters(&one).await.expect("the list is read at a reload");
    proxy.signal("HUP");
    await_until("the revoked one is refused", async || enters(&one).await.is_err()).await;
    let told = enters(&one).await.unwrap_err();
    assert!(told.contains("revoked"), "{told}");
    enters(&two).await.expect("the other is not revoked");
    kept.batch_execute("SELECT 1").await.expect("who is in stays");
    assert!(proxy.log().contains("Revoked"), "{}", proxy.log());

    // What cannot be used changes nothing, and is told of.
    let good = std::fs::read(&crl).unwrap();
    let old_form = std::fs::read(authority.publish("v1.crl", "")).unwrap();
    for (bad, wanted) in [
        (b"nonsense".to_vec(), "no certificate revocation list in PEM form"),
        (
            std::fs::read(authority.path("ca.crt")).unwrap(),
            "no certificate revocation list in PEM form",
        ),
        (old_form, "must be of version 2"),
    ] {
        std::fs::write(&crl, bad).unwrap();
        let complaints = || proxy.log().matches(wanted).count();
        let before = complaints();
        proxy.signal("HUP");
        await_until("the bad list is complained about", async || complaints() > before).await;
        let said = check(&proxy);
        assert!(said.contains(wanted) && said.contains("tls.client_crl"), "{said}");
        enters(&two).await.expect("what was loaded before goes on");
        assert!(enters(&one).await.is_err(), "what was loaded before goes on");
    }

    // Lists that do not speak for the authority any more, or never did, vouch for nobody.
    let over = std::fs::read(authority.publish("over.crl", OVER)).unwrap();
    let foreign = std::fs::read(other.publish("foreign.crl", V2)).unwrap();
    for (list, wanted) in [(&over, "was to be replaced"), (&foreign, "")] {
        std::fs::write(&crl, &good).unwrap();
        proxy.signal("HUP");
        await_until("the good list counts", async || enters(&two).await.is_ok()).await;
        std::fs::write(&crl, list).unwrap();
        proxy.signal("HUP");
        await_until("nobody is vouched for", async || enters(&two).await.is_err()).await;
        let said = check(&proxy);
        assert!(said.contains(wanted), "{said}");
    }

    // The newest of an authority's lists counts, wherever in the file it stands.
    std::fs::write(&crl, [over, good].concat()).unwrap();
    proxy.signal("HUP");
    await_until("the newest list counts", async || enters(&two).await.is_ok()).await;
    assert!(enters(&one).await.is_err());
}

fn check(proxy: &Proxy) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_causeway"));
    let output = command.args(["check", "--config"]).arg(&proxy.config).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn with_lists(mode: NodeTlsMode, root: &Path, crl: &Path) -> Result<Connector, TlsError> {
    Connector::load(&NodeTls {
        mode,
        root: Some(root.to_owned()),
        crl: Some(crl.to_owned()),
        certificate: None,
        key: None,
        require_auth: None,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_whose_certificate_was_revoked_are_not_believed() {
    use NodeTlsMode::{VerifyCa, VerifyFull};
    let authority = Authority::new(&directory(), "authority");
    let other = Authority::new(&directory(), "other");
    let identity = authority.sign("node", "node", "subjectAltName=IP:127.0.0.1");
    let root = authority.path("ca.crt");
    let cluster =
        Cluster::start(&ClusterOptions { replicas: 0, ..ClusterOptions::default() }).unwrap();
    let node = cluster.primary();
    offer(node, &identity, &root).await;
    let crl = authority.publish("nodes.crl", V2);
    let over = authority.publish("over.crl", OVER);
    let foreign = other.publish("foreign.crl", V2);
    let address = |host: &str| Address { host: host.to_owned(), port: node.port() };
    let (by_number, by_name) = (address("127.0.0.1"), address("localhost"));
    await_until("the node offers TLS", async || {
        look(&by_number, &with_lists(VerifyFull, &root, &crl).unwrap()).await.is_ok()
    })
    .await;

    let more = format!(
        "[node_tls]\nmode = \"verify-full\"\nroot = \"{}\"\ncrl = \"{}\"\n",
        root.display(),
        crl.display()
    );
    let options = ProxyOptions { more: more.leak(), ..ProxyOptions::default() };
    let proxy = Proxy::start(&cluster, &options).await;
    proxy.await_state(node, "up").await;

    let judged = async |address: &Address, mode: NodeTlsMode, crl: &Path| {
        let connector = with_lists(mode, &root, crl).unwrap();
        let opened = log_in(address, &connector, APP).await.map(drop);
        let opened = opened.map_err(|error| error.to_string());
        assert_eq!(opened.is_ok(), look(address, &connector).await.is_ok(), "{opened:?}");
        opened
    };
    // libpq is asked the same, and must say the same.
    let libpq = async |address: &Address, mode: NodeTlsMode, crl: &Path| {
        let word = if mode == VerifyCa { "verify-ca" } else { "verify-full" };
        let words = format!(
            "sslmode={word} sslrootcert={} sslcrl={} dbname=postgres",
            root.display(),
            crl.display()
        );
        let socket = ([127, 0, 0, 1], address.port).into();
        psql(socket, &address.host, &words).await
    };
    let agree =
        async |address: &Address, mode: NodeTlsMode, crl: &Path, expected: Result<(), &str>| {
            let (ours, theirs) =
                (judged(address, mode, crl).await, libpq(address, mode, crl).await);
            match (&ours, &theirs, expected) {
                (Ok(()), Ok(()), Ok(())) => {}
                (Err(why), Err(_), Err(part)) if why.contains(part) => {}
                _ => panic!(
                    "{address} {mode:?} {crl:?}: {ours:?}, libpq {theirs:?}, wanted {expected:?}"
                ),
            }
        };
    agree(&by_number, VerifyFull, &crl, Ok(())).await;
    agree(&by_name, VerifyCa, &crl, Ok(())).await;
    agree(&by_name, VerifyFull, &crl, Err("not valid for name")).await;
    agree(&by_number, VerifyFull, &over, Err("revocation list expired")).await;
    agree(&by_number, VerifyFull, &foreign, Err("UnknownRevocationStatus")).await;

    authority.revoke("node");
    authority.publish("nodes.crl", V2);
    agree(&by_number, VerifyFull, &crl, Err("Revoked")).await;
    agree(&by_number, VerifyCa, &crl, Err("Revoked")).await;
    // A wrong name, which is none of verify-ca's business, hides nothing.
    agree(&by_name, VerifyCa, &crl, Err("Revoked")).await;

    proxy.signal("HUP");
    await_until("the node is not believed any more", async || {
        proxy.state(node).await.as_deref() == Some("down")
    })
    .await;
    assert!(proxy.log().contains("Revoked"), "{}", proxy.log());
}
