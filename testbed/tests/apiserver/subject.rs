//! What the tests run against.

use std::{net::SocketAddr, time::Duration};

use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Error,
    api::{ApiResource, DynamicObject, PostParams},
    core::Status,
    runtime::wait::{await_condition, conditions},
};
use manx_testbed::apiserver::{ApiServer, Running};
use serde_json::{Value, json};

pub const DEADLINE: Duration = Duration::from_secs(20);
pub const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// A server to test, by one way to reach it, with a namespace of its own.
pub struct Subject {
    pub client: Client,
    pub namespace: String,
    /// `Some` where it is the small one.
    pub small: Option<ApiServer>,
    _running: Option<Running>,
}

impl Subject {
    /// Every server and way there is: the small one in process and over TCP, or a real one.
    pub async fn all() -> Vec<Self> {
        let running = ApiServer::start(LOOPBACK).await.expect("a server starts");
        let small = running.small_server().cloned();
        let mut subjects = Vec::new();
        if small.is_some() {
            subjects.push(Self::in_process(ApiServer::new()).await);
        }
        subjects.push(Self::new(running.client.clone(), small, Some(running)).await);
        subjects
    }

    /// A small server without a socket.
    pub async fn in_process(server: ApiServer) -> Self {
        Self::new(server.client(), Some(server), None).await
    }

    /// A small server behind a socket.
    pub async fn over_tcp(server: ApiServer) -> Self {
        let running = Running::small(server.clone(), LOOPBACK).await.expect("a server starts");
        Self::new(running.client.clone(), Some(server), Some(running)).await
    }

    async fn new(client: Client, small: Option<ApiServer>, running: Option<Running>) -> Self {
        let namespace: Namespace = typed(json!({"metadata": {"generateName": "test-"}}));
        let made = Api::all(client.clone()).create(&PostParams::default(), &namespace).await;
        let namespace = made.expect("a namespace").metadata.name.expect("a name");
        Self { client, namespace, small, _running: running }
    }

    /// The API of a namespaced kind in this test's namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The API of widgets, whose definition is registered first.
    pub async fn widgets(&self) -> Api<DynamicObject> {
        let definition: CustomResourceDefinition = typed(widget_definition());
        let definitions = Api::all(self.client.clone());
        match definitions.create(&PostParams::default(), &definition).await {
            Ok(_) => {}
            Err(Error::Api(status)) if status.is_already_exists() => {}
            Err(error) => panic!("{error}"),
        }
        let established = conditions::is_crd_established();
        let waiting = await_condition(definitions, "widgets.example.com", established);
        tokio::time::timeout(DEADLINE, waiting).await.expect("in time").expect("established");
        Api::namespaced_with(self.client.clone(), &self.namespace, &widget_resource("v1"))
    }
}

pub fn widget_definition() -> Value {
    serde_saphyr::from_str(include_str!("widgets.yaml")).expect("YAML")
}

pub fn widget_resource(version: &str) -> ApiResource {
    ApiResource {
        group: "example.com".into(),
        version: version.into(),
        api_version: format!("example.com/{version}"),
        kind: "Widget".into(),
        plural: "widgets".into(),
    }
}

pub fn widget(name: &str, spec: Value) -> DynamicObject {
    typed(json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec}))
}

pub fn typed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a value of that type")
}

pub fn config_map(name: &str, data: Value) -> ConfigMap {
    typed(json!({"metadata": {"name": name, "labels": {"app": name}}, "data": data}))
}

/// The status a request was refused with.
pub fn refused<T: std::fmt::Debug>(result: Result<T, Error>) -> Status {
    match result {
        Err(Error::Api(status)) => *status,
        other => panic!("not a Status: {other:?}"),
    }
}

/// Asserts until it holds, or the deadline has passed.
pub async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
