resource "helm_release" "scheduler" {
  name             = "scheduler"
  namespace        = "scheduler"
  create_namespace = true
  chart            = "${path.module}/charts/scheduler"
  atomic           = true

  values = [yamlencode({
    replicas = 3
    tls      = { mode = "certManager" }
    etcd     = { external = { endpoints = ["https://etcd-0.example.internal:2379"], tlsSecret = "etcd-client-tls" } }
  })]
}
