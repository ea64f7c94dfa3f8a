# kube-proxy alone: nixpkgs' kubernetes holds every program, and its package with fewer components does not install.
{
  lib,
  buildGoModule,
  kubernetes,
}:
buildGoModule {
  pname = "kube-proxy";
  inherit (kubernetes) version src;
  # The source brings its dependencies along.
  vendorHash = null;
  subPackages = [ "cmd/kube-proxy" ];
  env.CGO_ENABLED = 0;
  ldflags = [
    "-s"
    "-w"
    "-X k8s.io/component-base/version.gitVersion=v${kubernetes.version}"
    "-X k8s.io/component-base/version.gitTreeState=clean"
  ];
  # Upstream's tests of the whole repository are not this package's.
  doCheck = false;

  meta = {
    description = "Kubernetes network proxy on its own";
    homepage = "https://kubernetes.io";
    license = lib.licenses.asl20;
    mainProgram = "kube-proxy";
    platforms = lib.platforms.linux;
  };
}
