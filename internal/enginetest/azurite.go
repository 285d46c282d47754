package enginetest

import (
	"fmt"
	"os/exec"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"
)

// An AzuriteServer is Microsoft's emulator of Azure Blob Storage. It checks
// signatures, shared access signatures and the conditions of requests.
type AzuriteServer struct {
	URL     string // of the blob service of Account
	Account string
	Key     string // of Account; public, as it is the same in each Azurite

	*Process
}

// Azurite starts an Azurite that holds no container. It ends with the test.
func Azurite(t testing.TB) *AzuriteServer {
	t.Helper()
	port := freePort(t)
	s := &AzuriteServer{
		Account: "devstoreaccount1",
		Key:     "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
	}
	host := fmt.Sprintf("http://127.0.0.1:%d", port)
	s.URL = host + "/" + s.Account
	// The client library may speak a newer version of the protocol than Azurite
	// knows, and telemetry would leave this machine.
	cmd := exec.Command(program(t, "azurite", "azurite/node_modules/.bin/azurite-blob"),
		"--blobHost", "127.0.0.1", "--blobPort", fmt.Sprint(port), "--location", t.TempDir(),
		"--silent", "--disableTelemetry", "--skipApiVersionCheck")
	s.Process = start(t, "azurite", cmd, answers(host))
	return s
}

func (s *AzuriteServer) credential(t testing.TB) *container.SharedKeyCredential {
	t.Helper()
	cred, err := container.NewSharedKeyCredential(s.Account, s.Key)
	if err != nil {
		t.Fatal(err)
	}
	return cred
}

// Objects returns the names of all blobs in a container, in order.
func (s *AzuriteServer) Objects(t testing.TB, name string) []string {
	t.Helper()
	c, err := container.NewClientWithSharedKeyCredential(s.URL+"/"+name, s.credential(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for pager := c.NewListBlobsFlatPager(nil); pager.More(); {
		page, err := pager.NextPage(t.Context())
		if err != nil {
			t.Fatalf("list container %s: %v", name, err)
		}
		for _, b := range page.Segment.BlobItems {
			names = append(names, *b.Name)
		}
	}
	return names
}

// CreateContainer creates a container.
func (s *AzuriteServer) CreateContainer(t testing.TB, name string) {
	t.Helper()
	c, err := container.NewClientWithSharedKeyCredential(s.URL+"/"+name, s.credential(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Create(t.Context(), nil); err != nil {
		t.Fatalf("create container %s: %v", name, err)
	}
}

// SAS returns a shared access signature for a container, valid from a day ago
// until an expiry. Rights are letters as Azure orders them: racwdl.
func (s *AzuriteServer) SAS(t testing.TB, name, rights string, expiry time.Time) string {
	t.Helper()
	values := sas.BlobSignatureValues{
		Protocol: sas.ProtocolHTTPSandHTTP, ContainerName: name, Permissions: rights,
		StartTime: time.Now().UTC().Add(-24 * time.Hour), ExpiryTime: expiry.UTC(),
	}
	query, err := values.SignWithSharedKey(s.credential(t))
	if err != nil {
		t.Fatal(err)
	}
	return query.Encode()
}
