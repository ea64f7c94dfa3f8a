# What the options say, as the environment files of the units.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.smartnat;

  # As EnvironmentFile= reads it (systemd.exec(5)): within single quotes nothing is special but the quote itself.
  quote =
    value:
    if builtins.match "[-A-Za-z0-9_.,:/@%=]*" value != null then
      value
    else if lib.hasInfix "'" value || lib.hasInfix "\n" value then
      throw "services.smartnat: the setting ${builtins.toJSON value} holds a single quote or a line break, which an environment file cannot; write it without"
    else
      "'${value}'";
  text = value: if lib.isBool value then lib.boolToString value else toString value;
  environmentFile =
    settings:
    lib.concatLines (lib.mapAttrsToList (name: value: "${name}=${quote (text value)}") settings);

  offsets = lib.filterAttrs (_: external: external.gatewayOffset != null) cfg.interfaces.external;
  routers = lib.filterAttrs (_: external: external.router != null) cfg.interfaces.external;
  insideInterfaces = lib.unique (
    lib.optional (cfg.interfaces.cluster != null) cfg.interfaces.cluster.name ++ cfg.insideInterfaces
  );
  manifestDirectory = pkgs.linkFarm "smartnat-manifests" (
    lib.imap0 (index: file: {
      name = "${toString index}-${builtins.unsafeDiscardStringContext (baseNameOf file)}";
      path = file;
    }) cfg.manifests
  );
in
{
  options.services.smartnat.build = {
    settings = lib.mkOption {
      internal = true;
      readOnly = true;
      type = lib.types.attrsOf lib.types.anything;
      description = "The daemon's settings by the names of their environment variables.";
    };
    pattern = lib.mkOption {
      internal = true;
      readOnly = true;
      type = lib.types.str;
      description = "Regular expression for the names of external interfaces.";
      default =
        if cfg.interfacesPattern != null then
          cfg.interfacesPattern
        else
          lib.concatMapStringsSep "|" lib.escapeRegex (lib.attrNames cfg.interfaces.external);
    };
    environment = lib.mkOption {
      internal = true;
      readOnly = true;
      type = lib.types.attrsOf lib.types.lines;
      description = "Environment files of the units, by their names in /etc/smartnat.";
    };
  };

  config = lib.mkIf cfg.enable {
    services.smartnat.build.settings = {
      SNCTRLR_DEFAULT_GW_INTERFACE = cfg.interfaces.gateway.name;
      SNCTRLR_INTERFACES_PATTERN = cfg.build.pattern;
      SNCTRLR_GW_ADDRESS_OFFSET = lib.concatStringsSep "," (
        [ (toString cfg.gatewayOffset) ]
        ++ lib.mapAttrsToList (name: external: "${name}=${toString external.gatewayOffset}") offsets
      );
      SNCTRLR_MONITOR_IP = cfg.monitor.address;
      SNCTRLR_MONITOR_PORT = cfg.monitor.port;
      SNCTRLR_DEBUG_ENABLED = cfg.debug;
      SNCTRLR_SETUP_MASQUERADE = cfg.masquerade;
      SNCTRLR_SETUP_SNAT = cfg.snat;
      SNCTRLR_SETUP_ACCEPT = cfg.accept;
      SNCTRLR_IPTABLES_TIMEOUT_SEC = cfg.iptablesTimeout;
      SNCTRLR_AUTOREFRESH_PERIOD_SEC = cfg.refreshPeriod;
      SNCTRLR_MAX_FINALIZE_WAIT_MINUTES = cfg.maxFinalizeWait;
      SNCTRLR_MAX_PORTS_PER_MAPPING = cfg.maxPortsPerMapping;
      SNCTRLR_BORDER_OPENINGS = lib.concatStringsSep "," cfg.border.openings;
      SNCTRLR_NAMESPACE = cfg.namespace;
    }
    // lib.optionalAttrs (cfg.instanceName != null) { SNCTRLR_INSTANCE_NAME = cfg.instanceName; }
    // lib.optionalAttrs (cfg.insidePrefixes != [ ]) {
      SNCTRLR_INSIDE_PREFIXES = lib.concatStringsSep "," cfg.insidePrefixes;
    }
    // lib.optionalAttrs (routers != { }) {
      SNCTRLR_GW_ADDRESS = lib.concatStringsSep "," (
        lib.mapAttrsToList (name: external: "${name}=${external.router}") routers
      );
    }
    // lib.optionalAttrs (insideInterfaces != [ ]) {
      SNCTRLR_INSIDE_INTERFACES = lib.concatStringsSep "," insideInterfaces;
    }
    // (
      if cfg.manifests != [ ] then
        { SNCTRLR_MANIFESTS = "${manifestDirectory}"; }
      else
        # For commands by hand; the unit gets the same file from systemd.
        { KUBECONFIG = cfg.kubeconfig.file; }
    )
    // cfg.extraSettings;

    services.smartnat.build.environment = {
      "smartnat.env" = environmentFile cfg.build.settings;
      "kube-proxy.env" = environmentFile {
        KUBE_PROXY_NODEPORT_ADDRESSES = lib.concatStringsSep "," cfg.kubeProxy.nodePortAddresses;
        KUBE_PROXY_EXTRA_ARGS = lib.concatStringsSep " " cfg.kubeProxy.extraArgs;
      };
    };

    environment.etc = lib.mapAttrs' (name: file: {
      name = "smartnat/${name}";
      value.text = file;
    }) (removeAttrs cfg.build.environment (lib.optional (!cfg.kubeProxy.enable) "kube-proxy.env"));
  };
}
