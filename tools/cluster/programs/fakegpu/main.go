// fakegpu is a DRA driver with fake GPUs: it publishes -gpus devices of its node, and every container that names a claim gets
// FAKE_VISIBLE_DEVICES (device names, sorted, by comma) and FAKE_CLAIM (namespace/name) in its environment.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	resource "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/dynamic-resource-allocation/kubeletplugin"
	"k8s.io/dynamic-resource-allocation/resourceslice"
	"k8s.io/klog/v2"
)

const (
	driver  = "gpu.fake.tandem.dev"
	cdiKind = "fake.tandem.dev/gpu"
)

// plugin answers the kubelet: a prepared claim becomes one CDI device, described by a file in cdiDir.
type plugin struct{ cdiDir string }

func (p plugin) cdiFile(claim types.UID) string {
	return filepath.Join(p.cdiDir, "fakegpu-"+string(claim)+".json")
}

func (p plugin) PrepareResourceClaims(_ context.Context, claims []*resource.ResourceClaim) (map[types.UID]kubeletplugin.PrepareResult, error) {
	results := map[types.UID]kubeletplugin.PrepareResult{}
	for _, claim := range claims {
		results[claim.UID] = p.prepare(claim)
	}
	return results, nil
}

func (p plugin) prepare(claim *resource.ResourceClaim) kubeletplugin.PrepareResult {
	var devices []kubeletplugin.Device
	var names []string
	for _, allocated := range claim.Status.Allocation.Devices.Results {
		if allocated.Driver != driver {
			continue
		}
		names = append(names, allocated.Device)
		devices = append(devices, kubeletplugin.Device{
			Requests:     []string{allocated.Request},
			PoolName:     allocated.Pool,
			DeviceName:   allocated.Device,
			CDIDeviceIDs: []string{cdiKind + "=" + string(claim.UID)},
		})
	}
	slices.Sort(names)
	environment := []string{
		"FAKE_VISIBLE_DEVICES=" + strings.Join(names, ","),
		"FAKE_CLAIM=" + claim.Namespace + "/" + claim.Name,
	}
	err := p.writeCDI(claim.UID, environment)
	klog.InfoS("Prepared", "claim", klog.KObj(claim), "devices", names, "err", err)
	return kubeletplugin.PrepareResult{Err: err, Devices: devices}
}

func (p plugin) writeCDI(claim types.UID, environment []string) error {
	spec, err := json.Marshal(map[string]any{
		"cdiVersion": "0.5.0",
		"kind":       cdiKind,
		"devices": []any{map[string]any{
			"name":           string(claim),
			"containerEdits": map[string]any{"env": environment},
		}},
	})
	if err != nil {
		return err
	}
	// The runtime may read the folder at any time: it must never see half a file.
	partial := p.cdiFile(claim) + ".partial"
	if err := os.WriteFile(partial, spec, 0o644); err != nil {
		return err
	}
	return os.Rename(partial, p.cdiFile(claim))
}

func (p plugin) UnprepareResourceClaims(_ context.Context, claims []kubeletplugin.NamespacedObject) (map[types.UID]error, error) {
	results := map[types.UID]error{}
	for _, claim := range claims {
		err := os.Remove(p.cdiFile(claim.UID))
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		results[claim.UID] = err
		klog.InfoS("Unprepared", "claim", claim.Name, "err", err)
	}
	return results, nil
}

func (p plugin) HandleError(_ context.Context, err error, message string) { klog.ErrorS(err, message) }

func devices(count int) []resource.Device {
	var devices []resource.Device
	for i := range count {
		index, model := int64(i), "FAKE-GPU"
		devices = append(devices, resource.Device{
			Name: fmt.Sprintf("gpu-%d", i),
			Attributes: map[resource.QualifiedName]resource.DeviceAttribute{
				"index": {IntValue: &index},
				"model": {StringValue: &model},
			},
		})
	}
	return devices
}

func run() error {
	kubeconfig := flag.String("kubeconfig", "", "how to reach the API server")
	node := flag.String("node", "", "name of this node")
	cdiDir := flag.String("cdi-dir", "/run/cdi", "where the container runtime looks for CDI files")
	kubeletDir := flag.String("kubelet-dir", "/var/lib/kubelet", "the kubelet's --root-dir")
	count := flag.Int("gpus", 2, "fake GPUs of this node")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	data := filepath.Join(*kubeletDir, "plugins", driver)
	for _, folder := range []string{data, *cdiDir} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
	}
	helper, err := kubeletplugin.Start(ctx, plugin{*cdiDir},
		kubeletplugin.DriverName(driver), kubeletplugin.KubeClient(client), kubeletplugin.NodeName(*node),
		kubeletplugin.PluginDataDirectoryPath(data),
		kubeletplugin.RegistrarDirectoryPath(filepath.Join(*kubeletDir, "plugins_registry")))
	if err != nil {
		return err
	}
	defer helper.Stop()
	pool := resourceslice.Pool{Slices: []resourceslice.Slice{{Devices: devices(*count)}}}
	err = helper.PublishResources(ctx, resourceslice.DriverResources{Pools: map[string]resourceslice.Pool{*node: pool}})
	if err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func main() {
	if err := run(); err != nil {
		klog.ErrorS(err, "fakegpu ended")
		klog.FlushAndExit(klog.ExitFlushTimeout, 1)
	}
}
