package main

import (
	"encoding/json"
	"testing"
)

func TestNodeOf(t *testing.T) {
	for in, want := range map[string]string{
		"5:memory:/x\n0::/meshwatch-cluster/sys/n2-containerd\n": "/meshwatch-cluster/n2",
		"0::/meshwatch-cluster/sys/n3-containerd":                "/meshwatch-cluster/n3",
		"5:memory:/x\n":        "",
		"0::/\n":               "",
		"0::/user.slice/x-y\n": "",
	} {
		if got, err := nodeOf(in); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %s, %v, want %s", in, got, err, want)
		}
	}
}

func TestRewrite(t *testing.T) {
	const prefix = "io.kubernetes.cri.sandbox-"
	for name, c := range map[string]struct {
		annotations map[string]string
		want        string
	}{
		"best effort": {map[string]string{"cpu-shares": "2", "cpu-period": "100000"}, "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2.slice"},
		"burstable": {map[string]string{"cpu-shares": "10", "cpu-period": "100000", "cpu-quota": "200000", "memory": "1073741824"},
			"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice"},
		"guaranteed": {map[string]string{"cpu-shares": "102", "cpu-period": "100000", "cpu-quota": "10000", "memory": "1073741824"}, "kubepods.slice/kubepods-pod1_2.slice"},
	} {
		annotations := map[string]string{prefix + "uid": "1-2"}
		for k, v := range c.annotations {
			annotations[prefix+k] = v
		}
		in, err := json.Marshal(map[string]any{
			"process": map[string]any{"user": map[string]int{"uid": 7}}, "annotations": annotations,
			"linux": map[string]any{"namespaces": []int{}, "cgroupsPath": "/k8s.io/abc", "resources": map[string]any{
				"devices": []string{"d"}, "memory": map[string]int{"limit": 5}, "cpu": map[string]int{"shares": 2}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		data, err := rewrite(in, "/base/n2", "abc")
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Process struct{ User struct{ UID int } }
			Linux   struct {
				CgroupsPath string
				Namespaces  []int
				Resources   map[string]any
			}
		}
		if err := json.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		if want := "/base/n2/" + c.want + "/cri-containerd-abc.scope"; got.Linux.CgroupsPath != want {
			t.Errorf("%s: cgroup %s, want %s", name, got.Linux.CgroupsPath, want)
		}
		if got.Process.User.UID != 7 || got.Linux.Namespaces == nil || len(got.Linux.Resources) != 1 || got.Linux.Resources["devices"] == nil {
			t.Errorf("%s: %s", name, data)
		}
	}
	if _, err := rewrite([]byte("{"), "/", "x"); err == nil {
		t.Error("half a configuration was accepted")
	}
}
