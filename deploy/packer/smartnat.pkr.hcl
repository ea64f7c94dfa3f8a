# An image of EC2 with SmartNat, by the same deploy/install.sh as on any box:
#   packer init deploy/packer && packer build -var binary=target/release/smartnat-manager \
#     -var kube_proxy=https://dl.k8s.io/release/v1.36.3/bin/linux/amd64/kube-proxy -var kube_proxy_sha256=... deploy/packer
# Debian 13, as that is what the appliance is tested on, with a kernel that has IPVS. (The first SmartNat's template was for Amazon Linux 2,
# whose life ended in June 2026; for Amazon Linux 2023 take its AMI and user: install.sh knows dnf, but nobody has tried it there.)
packer {
  required_version = ">= 1.9.0"
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = ">= 1.2.0"
    }
  }
}

variable "region" {
  type    = string
  default = "us-east-1"
}

variable "instance_type" {
  type    = string
  default = "t3.small"
}

variable "architecture" {
  type        = string
  default     = "amd64"
  description = "amd64 or arm64; binaries and instance_type have to fit it."
}

variable "binary" {
  type        = string
  description = "The smartnat-manager program, a file here."
}

variable "kube_proxy" {
  type        = string
  default     = ""
  description = "URL of kube-proxy of the cluster's version; empty: none, and every Mapping is in mode direct."
}

variable "kube_proxy_sha256" {
  type    = string
  default = ""
}

variable "gateway_interface" {
  type    = string
  default = "ens5"
}

variable "interfaces_pattern" {
  type        = string
  default     = "ens[6-9]"
  description = "External interfaces. Taken as systemd-networkd's [Match] Name= too, so nothing but [ ] ranges in it."
}

locals {
  proxy_options = var.kube_proxy == "" ? "--without-kube-proxy" : "--kube-proxy '${var.kube_proxy}' --kube-proxy-sha256 '${var.kube_proxy_sha256}'"
}

source "amazon-ebs" "smartnat" {
  region        = var.region
  instance_type = var.instance_type
  ssh_username  = "admin"
  ami_name      = "smartnat-{{timestamp}}"

  source_ami_filter {
    most_recent = true
    # Debian's own account.
    owners = ["136693071363"]
    filters = {
      name                = "debian-13-${var.architecture}-*"
      virtualization-type = "hvm"
      root-device-type    = "ebs"
    }
  }
}

build {
  sources = ["source.amazon-ebs.smartnat"]

  provisioner "shell" {
    inline = ["mkdir /tmp/deploy"]
  }

  # With the slash: what is in it.
  provisioner "file" {
    source      = "${path.root}/../"
    destination = "/tmp/deploy"
  }

  provisioner "file" {
    source      = var.binary
    destination = "/tmp/smartnat-manager"
  }

  # External interfaces take their first address from DHCP and nothing else; further addresses: a drop-in of the administrator. The name sorts
  # before the files that cloud-init makes.
  provisioner "file" {
    destination = "/tmp/08-smartnat-external.network"
    content     = <<-EOT
      [Match]
      Name=${var.interfaces_pattern}

      [Link]
      RequiredForOnline=no

      [Network]
      DHCP=ipv4
      LinkLocalAddressing=no
      IPv6AcceptRA=no

      [DHCPv4]
      RouteMetric=4096
      UseGateway=no
      UseRoutes=no
      UseDNS=no
      UseNTP=no
    EOT
  }

  # Kubeconfigs come at the first boot: cloud-init's write_files, or a secret store. Without them the border is closed, and the services are
  # tried again until they are there.
  provisioner "shell" {
    inline = [
      "sudo install -m 644 /tmp/08-smartnat-external.network /etc/systemd/network/",
      "sudo bash /tmp/deploy/install.sh --no-start --binary /tmp/smartnat-manager ${local.proxy_options} --gateway-interface '${var.gateway_interface}' --interfaces-pattern '${var.interfaces_pattern}'",
      "rm -rf /tmp/deploy /tmp/smartnat-manager /tmp/08-smartnat-external.network",
      "sudo cloud-init clean --logs --machine-id",
    ]
  }
}
