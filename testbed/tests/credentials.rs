//! Credentials have their time: they are renewed while programs run, who go on with the new ones.

#![allow(clippy::unwrap_used, reason = "a test ends where its helpers fail")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use manx_felix::credentials;
use manx_ipam::crd::IPAMBlock;
use manx_testbed::apiserver::{ApiServer, ClientCertificate, Https};
use manx_testbed::kubelet::Kubelet;
use manx_testbed::{Lab, Options, Topology, eventually};

const SOON: Duration = Duration::from_secs(90);

/// Longer than an agent takes to start, and than what it has read of a token is good for: a minute.
const SHORT: Duration = Duration::from_secs(75);

/// Ends when who brings these credentials is refused.
async fn refused(config: &Config) {
    let asked = || async {
        // A connection of its own each time, as whoever has just started.
        match Client::try_from(config.clone()).unwrap().apiserver_version().await {
            Ok(_) => Err("still good"),
            Err(_) => Ok(()),
        }
    };
    eventually(SHORT + SOON, asked).await.unwrap();
}

fn write(folder: &Path, client: &ClientCertificate) {
    // One after the other, as most programs do.
    fs::write(folder.join("client.crt"), &client.certificate).unwrap();
    fs::write(folder.join("client.key"), &client.key).unwrap();
}

#[tokio::test]
async fn a_client_certificate_is_renewed_in_its_file_and_its_earlier_self_is_refused() {
    let https = Https::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (address, authority) = (https.address().unwrap(), https.authority().clone());
    tokio::spawn(https.serve(ApiServer::new()));
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("ca.crt"), authority.certificate()).unwrap();
    write(folder.path(), &authority.client(Duration::from_secs(20)).unwrap());
    let file = folder.path().join("kubeconfig");
    let text = serde_json::json!({
        "clusters": [{"name": "c", "cluster": {"server": format!("https://{address}"), "certificate-authority": "ca.crt"}}],
        "users": [{"name": "u", "user": {"client-certificate": "client.crt", "client-key": "client.key"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "current-context": "x",
    });
    fs::write(&file, text.to_string()).unwrap();
    let first = Kubeconfig::read_from(&file).unwrap();
    let first = Config::from_custom_kubeconfig(first, &KubeConfigOptions::default()).await.unwrap();
    // What the files hold now, whatever they hold later.
    let earlier = Client::try_from(first).unwrap();
    let client = credentials::client(Some(&file)).await.unwrap();
    client.apiserver_version().await.unwrap();
    earlier.apiserver_version().await.unwrap();

    let over = |client: Client| async move {
        match client.apiserver_version().await {
            Ok(_) => Err("still good"),
            Err(_) => Ok(()),
        }
    };
    eventually(SOON, || over(earlier.clone())).await.unwrap();
    eventually(SOON, || over(client.clone())).await.unwrap();
    write(folder.path(), &authority.client(Duration::from_secs(3600)).unwrap());
    eventually(SOON, || client.apiserver_version()).await.unwrap();
    assert!(earlier.apiserver_version().await.is_err());
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn an_agents_token_is_renewed_and_it_writes_on_when_the_first_is_over() {
    if std::env::var_os("KUBEBUILDER_ASSETS").is_some_and(|assets| !assets.is_empty()) {
        println!("not run: a real kube-apiserver gives no token for less than ten minutes");
        return;
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/deployed.clab.yml");
    let options = Options { name: Some("credentials".to_owned()), ..Options::default() };
    let lab = Lab::up(&Topology::read(&file).unwrap(), options).await.unwrap().temporary();
    let mut kubelet = Kubelet::idle(&lab, "node1").unwrap();
    kubelet.begin("manx-bgpd", None).await.unwrap();
    kubelet.tokens_last(SHORT);
    kubelet.begin("manx-felix", None).await.unwrap();
    let first = kubelet.token_of("manx-felix").unwrap();
    kubelet.tokens_last(Duration::from_secs(3600));
    kubelet.renew_token("manx-felix").await.unwrap();
    assert_ne!(kubelet.token_of("manx-felix").unwrap(), first);

    let kubeconfig = Kubeconfig::read_from(lab.kubeconfig()).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    config.auth_info.token = Some(first.into());
    refused(&config).await;

    // Read, and written.
    eventually(SOON, || async { lab.pod_add("node1", "default", "late").await }).await.unwrap();
    let blocks: Api<IPAMBlock> = Api::all(lab.client().await.unwrap());
    let mirrored = || async {
        let blocks = blocks.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let shown = serde_json::to_string(&blocks).map_err(|error| error.to_string())?;
        if shown.contains("\"late\"") { Ok(()) } else { Err(shown) }
    };
    eventually(SOON, mirrored).await.unwrap_or_else(|late| panic!("{late}\n{}", kubelet.log("manx-felix")));
}
