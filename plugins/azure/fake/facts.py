"""What the Azure of the tests has on offer: versions of interfaces, locations, images, sizes, members of bodies, prices."""
import re

VERSIONS = {"microsoft.network": "2024-05-01", "disks": "2024-03-02", "skus": "2021-07-01", "microsoft.compute": "2024-07-01",
            "microsoft.authorization": "2022-04-01", "locations": "2022-12-01", "": "2021-04-01"}
LOCATIONS = ["eastus", "westus2"]
IMAGES = {"canonical:0001-com-ubuntu-server-jammy:22_04-lts-gen2": ["22.04.202501010", "22.04.202601010"],
          "microsoftwindowsserver:windowsserver2022:2022-datacenter-smalldisk-g2": ["20348.4000.250101"]}


def size(name, cpus, memory, places="", nvme=False, spot=True, arm=False):
    said = {"vCPUs": cpus, "MemoryGB": memory, "CpuArchitectureType": "Arm64" if arm else "x64", "LowPriorityCapable": spot,
            "AcceleratedNetworkingEnabled": cpus > 2, "EphemeralOSDiskSupported": bool(places), "SupportedEphemeralOSDiskPlacements": places, "HyperVGenerations": "V1,V2",
            "DiskControllerTypes": "NVMe" if nvme else "SCSI"}
    return {"name": "Standard_" + name, "said": {key: str(value) for key, value in said.items() if value != ""}}


SIZES = [size("D%dad%ss_v6" % (n, ""), n, n * 4, "NvmeDisk", nvme=True) for n in (2, 4, 8, 16, 32, 48, 64, 96)]
SIZES += [size("D%dds_v6" % n, n, n * 4, "NvmeDisk", nvme=True) for n in (16, 32, 48, 64, 96, 128, 192)]
SIZES += [size("D%dads_v5" % n, n, n * 4, "ResourceDisk,CacheDisk") for n in (2, 32, 64, 96)]
SIZES += [size("D%dds_v5" % n, n, n * 4, "ResourceDisk,CacheDisk") for n in (2, 32, 64, 96)]
SIZES += [size("F%ds_v2" % n, n, n * 2, "CacheDisk,ResourceDisk") for n in (16, 32, 48, 64)]
SIZES += [size("D2s_v5", 2, 8), size("D2ps_v5", 2, 8, arm=True), size("B2s", 2, 4, spot=False)]
PROPERTIES = {
    "virtualMachines": {"hardwareProfile", "storageProfile", "osProfile", "networkProfile", "priority", "evictionPolicy", "billingProfile",
                        "diagnosticsProfile", "securityProfile"},
    "networkInterfaces": {"networkSecurityGroup", "ipConfigurations", "enableAcceleratedNetworking"},
    "publicIPAddresses": {"publicIPAllocationMethod", "publicIPAddressVersion", "deleteOption", "idleTimeoutInMinutes"},
    "networkSecurityGroups": {"securityRules"},
    "virtualNetworks": {"addressSpace", "subnets"},
    "disks": {"creationData", "diskSizeGB"},
    "securityRules": {"priority", "direction", "access", "protocol", "sourceAddressPrefix", "sourcePortRange", "destinationAddressPrefix",
                      "destinationPortRanges"},
    "subnets": {"addressPrefix"},
    "resourceGroups": set(),
    "extensions": {"publisher", "type", "typeHandlerVersion", "autoUpgradeMinorVersion", "settings", "protectedSettings"},
}


def prices(query):
    text = query["$filter"][0]
    said = dict(re.findall(r"(\w+) eq '([^']*)'", text))
    row = lambda price, product, sku: {"currencyCode": "USD", "retailPrice": price, "armRegionName": said["armRegionName"], "productName": product, "skuName": sku}
    return {"Items": [row(0.9, "Virtual Machines Dadsv6 Series Windows", "D"), row(0.5, "Virtual Machines Dadsv6 Series", "D"),
                      row(0.1, "Virtual Machines Dadsv6 Series", "D Spot"), row(0.05, "Virtual Machines Dadsv6 Series", "D Low Priority")]}
